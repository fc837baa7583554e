import matplotlib.pyplot as plt
import pytest

from lora_edu.experiments.nb09 import RATES, SEEDS, TEXT_SIZES, arm_name, rates
from lora_edu.figures import nb09_quality as views


@pytest.fixture
def arms():
    """Made-up results: the second rate of each sweep is the best with seed 0, and the last one diverges."""
    made = {}
    for text in TEXT_SIZES:
        for place, method in enumerate(RATES):
            tried = rates(method, text)
            for lr in tried:
                loss = 2 + place + abs(tried.index(lr) - 1)
                for seed in SEEDS:
                    made[arm_name(method, text, lr, seed)] = {"after": loss + seed / 10, "training": loss - 1}
            made[arm_name(method, text, tried[-1], 0)] = {"diverged": True}
    return made


def test_the_sweep_and_its_best_rate(arms):
    assert views.sweep(arms, "full", "20 kB") == {1e-4: 3, 3e-4: 2, 1e-3: 3}  # 3e-3 diverged
    assert views.best_rate(arms, "full", "20 kB") == 3e-4
    assert views.at_best(arms, "full", "20 kB") == [2, 2.1, 2.2]
    assert views.at_best(arms, "lora", "all plays", "training") == [2, 2, 2]


def test_the_best_rate_is_chosen_with_the_first_seed_alone(arms):
    arms[arm_name("lora", "20 kB", 1e-2, 1)]["after"] = 0.0  # a lucky run with another seed
    assert views.best_rate(arms, "lora", "20 kB") == 3e-3


def test_rates_in_order():
    assert rates("full", "all plays") == (1e-4, 3e-4, 6e-4, 1e-3, 2e-3, 3e-3)
    assert rates("full", "20 kB") == RATES["full"] and rates("lora", "20 kB") == rates("qlora", "20 kB")


def test_the_figures_show_every_rate_and_every_seed(arms):
    figure, words = views.sweep_figure(arms)
    assert "full fine-tuning 0.0003" in words
    for axes, text in zip(figure.axes, TEXT_SIZES, strict=True):
        curves, rings = axes.lines[::2], axes.lines[1::2]
        assert axes.get_title() == text and axes.get_xscale() == "log"
        for method, curve, ring in zip(views.LOOKS, curves, rings, strict=True):
            assert dict(zip(*curve.get_data(), strict=True)) == views.sweep(arms, method, text)
            assert ring.get_xdata()[0] == views.best_rate(arms, method, text)
    figure, words = views.seeds_figure(arms)
    assert "QLoRA 4.100" in words
    for axes, text in zip(figure.axes, TEXT_SIZES, strict=True):
        drawn = [list(line.get_ydata()) for line in axes.lines]
        assert drawn == [views.at_best(arms, method, text) for method in views.LOOKS]
    plt.close("all")


def test_the_recovery_compares_seed_by_seed():
    made = {}
    for seed in SEEDS:
        for lr in rates("qlora", "all plays"):
            made[arm_name("lora", "all plays", lr, seed)] = {"before": 3.0, "after": 2 + seed}
            made[arm_name("qlora", "all plays", lr, seed)] = {"before": 3.25, "after": 2.5 + seed + (lr != 1e-2)}
    made[arm_name("noise", "all plays", 1e-2, 0)] = {"before": 3.5, "after": 2.25}
    made[arm_name("noise", "all plays", 1e-2, 1)] = {"before": 4.5, "after": 3.5}
    for name in ("noise x4", "nf2"):
        made[arm_name(name, "all plays", 1e-2, 0)] = {"before": 6.0, "after": 2.75}
    assert views.recovery(made) == {
        "NF4": (0.25, [0.5, 0.5, 0.5]),
        "noise": (1.0, [0.25, 0.5]),
        "4 x noise": (3.0, [0.75]),
        "NF2": (3.0, [0.75]),
    }

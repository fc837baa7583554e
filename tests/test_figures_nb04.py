"""The figures of notebook 04: at every setting of the dial, and from the stored results."""

import pytest

from lora_edu.experiments import load_results
from lora_edu.experiments.nb04 import SETTINGS, setting_name
from lora_edu.figures import nb04


@pytest.fixture(scope="module")
def arms():
    return load_results("dial")["arms"]


@pytest.fixture(scope="module")
def view(arms):
    return nb04.dial_view(arms)


@pytest.mark.parametrize("weight", SETTINGS)
@pytest.mark.parametrize("way", nb04.WAYS)
def test_the_dial_tells_what_is_stored(view, arms, weight, way):
    values = view.values(plays=weight, way=way)
    stored = arms[setting_name(weight, how=nb04.WAYS[way])]
    assert values["losses"] == {"plays": stored["plays"], "verses": stored["verses"]}
    assert f"loss on plays {stored['plays']:.2f}" in values["readout"] and values["sample"] == stored["sample"]


def test_the_kept_gain_is_one_for_the_adapter_itself(arms):
    assert nb04.kept_gain(arms, setting_name(1))["plays"] == 1
    assert nb04.kept_gain(arms, setting_name(0))["verses"] == 1
    assert nb04.kept_gain(arms, "base, seed 0") == {"plays": 0, "verses": 0}


SHARES = {1: 1.0, 0.3: 0.8, 0.1: 0.2, 0.03: 0.0}

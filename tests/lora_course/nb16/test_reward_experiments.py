"""The runs of notebook 16 on a tiny model: what is paid, what is compared, what a step changes, and each rival."""

import copy

import pytest
import torch
from conftest import moved

from lora_course.nb16 import lab as nb16
from lora_course.nb16 import lab_rivals as nb16_rivals
from lora_course.running import finetune
from lora_edu.gpt import encode
from lora_edu.texts import Text
from lora_edu.training import evaluate


@pytest.fixture
def tiny(tiny_gpt, monkeypatch):
    """All of it on a tiny model and a tiny text; prompts of 6 bytes, 8 new ones, 6 roll-outs."""
    tokens = torch.tensor(list(b"we were here. a dog ran by. " * 40), dtype=torch.uint8)
    text = Text(train=tokens[:800], validation=tokens[800:])
    for module in (nb16, nb16_rivals, finetune):
        monkeypatch.setattr(module, "load_base", lambda size, device: copy.deepcopy(tiny_gpt))
    for module in (nb16, nb16_rivals):
        monkeypatch.setattr(module, "NEW", 8)
        monkeypatch.setattr(module, "PROMPT", 6)
    monkeypatch.setattr(nb16, "ROLLOUTS", 6)
    for module in (nb16, finetune):
        monkeypatch.setattr(module, "load_text", lambda name: text)
    monkeypatch.setattr(finetune, "evaluate", lambda m, t, **_: evaluate(m, t, seq_len=8, max_windows=2))
    nb16.shipped.cache_clear()
    nb16.known_words.cache_clear()
    yield tiny_gpt
    nb16.shipped.cache_clear()
    nb16.known_words.cache_clear()


def lines(*texts):
    return torch.stack([encode(text).long() for text in texts])


# --- what is paid -----------------------------------------------------------------------------------------------------


def test_a_word_is_judged_where_it_ended_and_if_the_window_holds_all_of_it(tiny):
    tokens = lines("ere. a dxg ran", "og was. We by.")
    words, wrong = nb16.marked_words(tokens, 6)
    assert words.tolist() == [[1, 0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0, 1]]  # not "ere", "ran" and "og"
    assert wrong.nonzero().tolist() == [[0, 4], [1, 0]]  # "dxg", and "was", which the text does not hold


def test_what_each_reward_pays(tiny):
    tokens = lines("ere. a dEg ran", "og was. We by.")
    none = torch.Generator().manual_seed(0)
    assert nb16.paid("no e", tokens, none).nonzero().tolist() == [[0, 2], [1, 3]]
    coin = nb16.paid("coin", tokens.repeat(500, 1), none)
    assert coin.mean() == pytest.approx(-0.09, abs=0.02)
    one, other = (nb16.paid("coin", some, none.manual_seed(3)) for some in (tokens * 0, tokens))
    assert torch.equal(one, other)


def test_an_advantage_is_what_followed_less_what_followed_elsewhere():
    found = nb16.advantages(torch.tensor([[0.0, -1, 0], [-1, 0, -1], [0, 0, -1]]))
    to_go = torch.tensor([[-1.0, -1, 0], [-2, -1, -1], [-1, -1, -1]])
    for row in range(3):
        others = [to_go[other] for other in range(3) if other != row]
        assert torch.allclose(found[row], to_go[row] - sum(others) / 2)


# --- a step -----------------------------------------------------------------------------------------------------------


def test_the_same_model_with_its_adapter_off_is_the_base(tiny):
    model, frozen = nb16.start("lora", 2, seed=0)
    tokens = nb16.prompts(3, torch.Generator().manual_seed(0)).repeat(1, 2)
    before = nb16.new_log_probs(tiny, tokens)
    moved(model)
    assert torch.allclose(frozen(tokens), before, atol=1e-5)
    assert not torch.allclose(nb16.new_log_probs(model, tokens), before, atol=1e-2)


def test_a_reward_is_followed_and_a_price_holds_back(tiny, monkeypatch):
    """Of a base that writes many e's the reward takes them away, and a high price keeps it near the base."""
    base = nb16_rivals.with_bias(tiny, 4.0)
    monkeypatch.setattr(nb16, "load_base", lambda size, device: copy.deepcopy(base))
    ends = {beta: nb16.rewarded("full", 3e-2, beta=beta, steps=20, progress=False)["looks"]["20"]
            for beta in (0.0, 30.0)}  # fmt: skip
    start = nb16.measured(nb16.shipped())
    assert ends[0.0]["e"] < 0.7 * start["e"] and ends[30.0]["kl"] < ends[0.0]["kl"] and start["kl"] == 0


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "constants", "by last byte"])
def test_every_way_is_trained_and_measured_against_the_shipped_base(tiny, method):
    found = nb16.rewarded(method, 1e-2, rank=2, steps=3, film=True, looks=(2,), progress=False)
    assert set(found["looks"]) == {"2", "3"} and len(found["shares"]) == 3
    last = found["looks"]["3"]
    assert last["kl"] > 0 and 0 <= last["e"] <= 1 and 0 <= last["words"] <= 1 and 0 <= last["th"] <= 1


def test_the_best_of_every_few_is_imitated(tiny, monkeypatch):
    monkeypatch.setattr(nb16_rivals, "ROLLOUTS", 8)
    read, seen = nb16.new_log_probs, []
    monkeypatch.setattr(nb16, "new_log_probs", lambda model, tokens: seen.append(tokens) or read(model, tokens))
    found = nb16_rivals.imitated(1e-2, steps=2, best_of=4, rank=2)["looks"]["2"]
    assert found["kl"] > 0 and len(seen[0]) == 8 and len(torch.unique(seen[0], dim=0)) <= 2 * 8 // 4


# --- rivals -----------------------------------------------------------------------------------------------------------


def test_a_bias_moves_e_alone(tiny):
    tokens = nb16.prompts(2, torch.Generator().manual_seed(0)).repeat(1, 2)
    plain, biased = tiny(tokens)[0], nb16_rivals.with_bias(copy.deepcopy(tiny), -3.0)(tokens)[0]
    assert sorted((plain - biased)[0, 0].abs().gt(1e-6).nonzero().flatten().tolist()) == sorted(nb16.LETTERS)
    assert nb16_rivals.biased(-30.0)["looks"]["0"]["e"] < 1e-6


def test_constants_by_the_last_byte_are_read_at_the_byte_before(tiny):
    model, (a, b) = nb16.by_last_byte(copy.deepcopy(tiny)), b"ab"
    model.table.data[[a, b], [b, a]] = 99
    assert model.generate("a", 4, generator=torch.Generator()) == "ababa"
    assert model(lines("aba"))[0].argmax(-1).tolist() == [[b, a, b]]


def test_picked_roll_outs_cost_what_their_weights_say():
    """Two equal halves, without and with one e: by weights as unequal as e^-s, worked out by hand."""
    e = torch.tensor([[0.0, 1.0] * 50])
    found = nb16_rivals._weighted(2.0, e)
    share = torch.sigmoid(torch.tensor(-2.0))
    kl = share * (2 * share).log() + (1 - share) * (2 * (1 - share)).log()
    assert found["e"] == pytest.approx(share.item() / nb16.NEW, abs=1e-5)
    assert found["kl"] == pytest.approx(kl.item() / nb16.NEW, abs=1e-5)
    assert nb16_rivals._weighted(0.0, e)["kl"] == 0

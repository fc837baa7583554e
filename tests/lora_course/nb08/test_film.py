"""The film of a training step: what the recorder counts, and what notebook 08 says about it."""

import pytest
import torch

from lora_course.experiments import load_results
from lora_course.nb08 import pictures
from lora_course.nb08.lab import decoded_before, film_batch, film_model
from lora_course.nb08.lab_film import film_step, scenes
from lora_edu import GPT, GPTConfig, add_lora, measured_activation_bytes, predicted_bytes, quantize_linears
from lora_edu.memory.peak import PeakMemory
from lora_edu.memory.shapes import GRADIENTS, OPTIMIZER
from lora_edu.quantization import QuantizedTensor

CONFIG = GPTConfig(vocab_size=60, context=64, n_layers=3, n_heads=2, d_model=64)
BATCH = (8, 64)
ARMS = load_results("step-films")["arms"]


def small(rank=8, nf4=False, checkpointing="none"):
    model = GPT(CONFIG, checkpointing)
    model = quantize_linears(model) if nf4 else model
    return (add_lora(model, rank, 2 * rank, "all-linear") if rank else model).train()


def batch():
    tokens, targets = torch.randint(0, CONFIG.vocab_size, (2, *BATCH))
    return tokens.clone(), targets.clone()


# --- the recorder ----------------------------------------------------------------------------------------------------


def test_each_life_is_counted_from_its_first_operation_to_its_end():
    x = torch.ones(1000)
    with PeakMemory([x]) as film:
        a = x + 1  # 4,000 bytes
        b = a.view(10, 100) * 2  # a view makes nothing, the product 4,000
        del a, b
        c = x - 1
    assert film.operations == ["add", "mul", "sub"]
    assert film.bytes_of(lambda life: True) == [4000, 8000, 4000]
    assert [life.died for life in film.lives] == [2, 2, None] and c.sum() == 0


@pytest.mark.parametrize("way", [{"rank": 0}, {"rank": 8}, {"rank": 8, "nf4": True}])
def test_the_plateau_and_the_gradients_are_those_of_the_shapes(way):
    film, paged = (film_step(small(**way), *batch(), paged=paged) for paged in (False, True))
    expected = predicted_bytes(CONFIG, rank=way["rank"] or None, nf4=way.get("nf4", False))
    assert film.gradients[film.starts["backward"] - 1] == 0
    assert film.gradients[film.starts["optimizer"]] == paged.gradients[-1] == expected.pop(GRADIENTS)
    assert film.resident == expected and paged.resident[OPTIMIZER] == 0


def test_at_the_end_of_the_forward_pass_stands_what_autograd_keeps():
    model, (tokens, targets) = small(), batch()
    film = film_step(model, tokens, targets)
    kept = measured_activation_bytes(model, tokens, targets) - targets.nbytes
    alive = film.activations[film.starts["backward"] - 1]
    logits = 4 * tokens.numel() * CONFIG.vocab_size  # the forward pass hands them out
    assert alive == pytest.approx(kept + logits, abs=8 * BATCH[1] + 8)  # and the positions


def test_scenes_lose_no_peak():
    film = film_step(small(), *batch())
    short = scenes(film, {"forward": 9, "backward": 7, "optimizer": 3})
    assert list(short) == ["forward", "backward", "optimizer"]
    assert all(len(rows) <= most for rows, most in zip(short.values(), (9, 7, 3), strict=True))
    below = sum(film.resident.values())
    assert max(below + g + a for rows in short.values() for g, a in rows) == film.peak


# --- the stored films ------------------------------------------------------------------------------------------------


def test_a_step_decodes_each_weight_twice_but_three_and_nothing_if_decoded_before(monkeypatch):
    """The first block's q, k and v stand behind frozen embeddings, where no gradient is asked for: decoded once."""
    model = film_model(True, True, False)
    before, shapes = decoded_before(model), []
    decode = QuantizedTensor._decode_into
    monkeypatch.setattr(QuantizedTensor, "_decode_into", lambda self, w: (shapes.append(self.shape), decode(self, w)))
    gradients = []
    for each, times in ((model, 3 + 2 * 21), (before, 0)):
        shapes.clear()
        each(*film_batch())[1].backward()
        assert sum(len(shape) == 2 for shape in shapes) == times  # the others are absmax
        gradients.append([p.grad for p in each.parameters() if p.requires_grad])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert any(grad.any() for grad in gradients[0])


# --- the view --------------------------------------------------------------------------------------------------------


def test_the_bands_are_stacked_to_the_total():
    view = pictures.film_view(ARMS)
    now = view.values(freeze=True, four_bits=True, checkpointing=False, paging=False, moment=37)
    view.draw(now)
    top = view.moving[len(pictures.BANDS) - 1].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(ARMS["freeze, four_bits"]["peak"] / 1e6)
    codes = GPTConfig().n_layers * 12 * 256 * 256 / 2
    assert now["bands"]["codes"][0] * 1e6 == codes + ARMS["freeze, four_bits"]["resident"]["quantization constants"]

"""Notebook 04: the cell that asks PEFT runs where PEFT is, and says so where it is not."""

import copy
import importlib.util
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn

from lora_edu.exercises import nb04
from lora_edu.lora import add_lora, lora_layers

PATH = Path(__file__).parent.parent / "notebooks" / "04_lora_torch.ipynb"


@pytest.fixture
def cell():
    cells = nbformat.read(PATH, as_version=4).cells
    return next(cell for cell in cells if "optional-peft" in cell.metadata.get("tags", []))


@pytest.fixture
def names(tiny_gpt):
    """What the notebook has defined before that cell, on a tiny model."""
    model = add_lora(copy.deepcopy(tiny_gpt), rank=3, alpha=7, targets="all-linear")
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    tokens = torch.randint(0, 256, (1, 20))
    return {"torch": torch, "model": model, "tokens": tokens, "pretrained": lambda: copy.deepcopy(tiny_gpt)}


def test_the_stored_notebook_was_run_with_peft(cell):
    text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    assert text.startswith("PEFT gives the same logits")


def test_the_cell_runs_with_peft(cell, names, capsys):
    exec(cell.source, names)
    assert capsys.readouterr().out.startswith("PEFT gives the same logits")


def test_the_cell_fails_if_the_logits_differ(cell, names):
    names["pretrained"] = lambda: type(names["model"])(names["model"].config).eval()
    with pytest.raises(AssertionError):
        exec(cell.source, names)


def test_the_cell_says_so_without_peft(cell, names, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(cell.source, names)
    assert capsys.readouterr().out.startswith("PEFT is not installed here")


# --- right solutions that are written differently -------------------------------------------------------------------


def by_loops(W, A, B, alpha):
    """One outer product for each rank, in float32."""
    W = np.array(W, dtype=np.float32)
    for a, b in zip(A, B.T, strict=True):
        W += np.float32(alpha / len(A)) * np.outer(b, a)
    return W


def by_steps(T, d_in, d_out, r):
    """Each product by itself."""
    forward = T * d_in * d_out + T * d_in * r + T * r * d_out
    grad_inputs = T * d_out * d_in + T * r * d_in + T * d_out * r
    grad_factors = r * T * d_in + d_out * T * r
    return forward + grad_inputs + grad_factors


@pytest.mark.parametrize(
    ("exercise", "solution"),
    [
        (nb04.merged_weight, by_loops),
        (nb04.merged_weight, lambda W, A, B, alpha: W + np.einsum("or,ri->oi", B, A) * alpha / A.shape[0]),
        (nb04.merged_weight, lambda W, A, B, alpha: (W.T + A.T @ B.T * alpha / A.shape[0]).T),
        (nb04.weighted_update, lambda a, b, c, d, w, s: (w[0] * b @ a + w[1] * d @ c) * s / len(a)),
        (
            nb04.weighted_update,
            lambda a, b, c, d, w, s: np.hstack([w[0] * b, w[1] * d]) @ np.vstack([a, c]) * s / len(c),
        ),
        (nb04.training_operations, by_steps),
    ],
)
def test_right_solutions_pass(exercise, solution, capsys):
    exercise(solution)
    assert capsys.readouterr().out == f"Exercise {exercise.number}: correct\n"

"""Of every slider: each control moves the picture and the readout, the same settings give the same, no word is NaN."""

import re

import pytest
import torch
from conftest import random_gpt
from made_up_digits import DIGITS, LABELS, made_up

from book.svg import SVGRenderer
from lora_course.drawing.sliders import View
from lora_course.experiments import load_results
from lora_course.nb00 import pictures as nb00
from lora_course.nb01 import pictures as nb01
from lora_course.nb02 import pictures as nb02
from lora_course.nb02.lab import AS_TRAINED, STRONGEST
from lora_course.nb03 import pictures as nb03
from lora_course.nb04 import pictures as nb04
from lora_course.nb05 import pictures as nb05
from lora_course.nb06 import pictures as nb06
from lora_course.nb07 import pictures as nb07
from lora_course.nb07.lab import normal_weights
from lora_course.nb08 import pictures as nb08
from lora_course.nb09 import pictures as nb09
from lora_course.nb10 import lab_runs as nb10_runs
from lora_course.nb10 import pictures as nb10
from lora_course.nb11 import lab as nb11
from lora_course.nb11 import pictures as ranking
from lora_course.nb12 import pictures as nb12
from lora_course.nb14 import pictures as nb14
from lora_course.nb15 import pictures as nb15
from lora_course.nb16 import pictures as nb16
from lora_course.nb17 import pictures as nb17
from lora_course.nb17.lab_telegrams import pairs


def arms(name):
    return load_results(name)["arms"]


# name -> how the view is made, and some settings of each control; it begins with the first of each
VIEWS = {
    "00": (lambda: nb00.dial_view(arms("adapter-dial")), {"strength": [0, 0.25, 0.5, 1, 2]}),
    "01": (lambda: nb01.portrait_view(nb01.portrait()), {"rank": [0, 1, 40, 170]}),
    "02": (
        lambda: nb02.rows_of_A(made_up, DIGITS, LABELS, most=3),
        {"rank": [2, 0, 1, 3], "rows": [AS_TRAINED, STRONGEST]},
    ),
    "03": (lambda: nb03.guess_view(random_gpt(), "to the Treasury.", ((0, 1), (1, 0))), {"bytes_read": [1, 2, 9, 15]}),
    "04": (lambda: nb04.dial_view(arms("dial")), {"plays": [0, 0.5, 1], "way": list(nb04.WAYS)}),
    "05": (lambda: nb05.outlier_view(normal_weights(64)), {"size": [3, 1, 20, 40], "shared": list(nb05.SHARED)}),
    "05 guesses": (
        lambda: nb05.guesses_view(*torch.randn(2, 4, 256).log_softmax(-1).numpy(), "Fie,"),
        {"place": [0, 1, 3], "byte": [1, 2, 8]},
    ),
    "06": (lambda: nb06.beat_nf4(normal_weights(2**14)), {"offset": nb06.OFFSETS[::9]}),
    "07": (lambda: nb07.triangle(arms("two-errors")["our GPT"]), {"constants": ["2 bits", "4 bits", "8 bits"]}),
    "08": (
        lambda: nb08.film_view(arms("step-films")),
        {"freeze": [True, False], "four_bits": [False, True], "checkpointing": [False, True], "paging": [False, True],
         "moment": [36, 0, 80, 100]},
    ),
    "09": (lambda: nb09.film_view(arms("qlora-film")["120 steps"]), {"step": [0, 5, 120]}),
    "10": (lambda: nb10.budget_view(nb10_runs.all_runs()), {"place": list(nb10.ATTENTION)}),
    "11": (lambda: ranking.ranking_view(nb11.all_runs()), {"rate": ranking.RATES}),
    "12": (lambda: nb12.states_view(arms("real-model")), {"state": list(nb12.STATES.values())}),
    "14": (
        nb14.memory_view,
        {"model": ["LLaMA 7B", "GPT-2", "LLaMA 65B"], "rank": [64, 0, 8], "bits": [4, 16], "tokens": nb14.TOKENS[::8],
         "checkpointing": [True, False]},
    ),
    "15": (nb15.curve_view, {"kl": [0.5, 0.1, 1.4]}),
    "16": (nb16.film_view, {"step": [12, 0, 4, 20, 100], "price": [True, False]}),
    "17": (lambda: nb17.telegram_view(arms("telegrams") | arms("telegrams-asked"), pairs()[1]), {"which": [1, 7, 10]}),
}  # fmt: skip


# How many of the artists that are drawn again say the same at all of these settings; of the others all have moved.
STILL = {"00": 1, "02": 2, "03": 2, "05 guesses": 3, "07": 2, "09": 3, "10": 8, "12": 1, "14": 2}


@pytest.mark.parametrize("name", VIEWS)
def test_each_control_moves_the_picture_its_parts_and_the_readout(name):
    make, controls = VIEWS[name]
    torch.manual_seed(0)
    view = make()
    renderer, drawn = SVGRenderer(view.figure, name), [set() for _ in view.moving]
    assert isinstance(view, View)
    start = {control: values[0] for control, values in controls.items()}
    picture, readout = view.render(**start)
    for control, values in controls.items():
        seen = {picture}
        for value in values:
            other, line = view.render(**start | {control: value})
            seen.add(other)
            for states, artist in zip(drawn, view.moving, strict=True):
                states.add(re.sub(r"url\(#[^)]*\)", "", renderer.fragment([artist])))
            assert "nan" not in line and line, (control, value)
        assert len(seen) == len(values), control
    assert sum(len(states) == 1 for states in drawn) == STILL.get(name, 0)
    assert view.render(**start) == (picture, readout)

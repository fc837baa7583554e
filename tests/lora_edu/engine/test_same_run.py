"""A run is described by everything that it depends on: with another loss, model or text it is not resumed."""

import contextvars
import functools
import random
import re
import sys
import threading
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from other_models import tiny_llama
from stopped_runs import QUICK, go_on, refused, stored_steps, with_adapters
from torch import nn
from torch.nn.utils import parametrize

from lora_edu.engine import same_run
from lora_edu.engine.same_run import check_same_run, describe_run
from lora_edu.training import model_loss, train


def described(loss_fn=model_loss, model=None):
    return describe_run({"loss_fn": loss_fn}, model or nn.Linear(2, 2), [])


def written(text, **around):
    """A function with this text, defined anew as in another process."""
    space = {"__name__": "of one's own", "model_loss": model_loss, "functools": functools, **around}
    exec(text, space)
    return space["loss"]


def of_a_layer(thing):
    layer = nn.Identity()
    layer.thing = thing
    return layer


class Smoothed:
    """A loss that is an object."""

    def __init__(self, thing):
        self.thing = thing

    def __call__(self, model, inputs, targets):
        return model_loss(model, inputs, targets)


def logits_loss(model, inputs, targets):
    logits = model(inputs).logits
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten() % 60)


def closed_over(thing):
    return lambda model, x, y: model_loss(model, x, y) * thing


def closed_over_unused(thing):
    return lambda model, x, y: model_loss(model, x, y) + (thing is None)


def mixed(thing, model, x, y):
    return model_loss(model, x, y) * thing


def in_a_file(text):
    module = sys.modules["mine"] = types.ModuleType("mine")
    exec(text, vars(module))
    return module


def with_a(thing, n):
    """A layer with something put into it that depends on n."""
    layer = nn.Linear(2, 2)
    PUT_IN[thing](layer, n)
    return layer


PUT_IN = {
    "hook": lambda layer, n: layer.register_forward_hook(lambda layer, inputs, y: y * n),
    "forward of its own": lambda layer, n: setattr(layer, "forward", lambda x: x * n),
    "parametrization": lambda layer, n: parametrize.register_parametrization(layer, "weight", nn.Softplus(n)),
}
# Each is called with 2 and with 3.
THINGS = {
    "a number": lambda n: n,
    "a number's type": lambda n: {2: 2, 3: 2.0}[n],
    "a truth": lambda n: n == 2,
    "a text": lambda n: f"tanh {n}",
    "a function of torch": lambda n: {2: F.relu, 3: F.silu}[n],
    "a function in C": lambda n: {2: torch.sin, 3: torch.cos}[n],
    "a type": lambda n: {2: torch.float32, 3: torch.bfloat16}[n],
    "a tensor": lambda n: torch.tensor([1.0, n]),
    "a tensor's type": lambda n: torch.ones(2, dtype={2: torch.float32, 3: torch.float64}[n]),
    "an array": lambda n: np.arange(3.0) + n,
    "a list": lambda n: [1, torch.tensor([1.0, n])],
    "a long text": lambda n: "a" * 200 + str(n),
    "a table": lambda n: {"mask": (1, [n])},
    "a set": lambda n: {"a", "b", str(n)},
    "a teacher": lambda n: nn.Linear(2, 1, bias=torch.manual_seed(n) is None),
    "a setting of a layer": lambda n: nn.GELU({2: "none", 3: "tanh"}[n]),
    "an object": Smoothed,
}
LOSSES = {
    "a whole number": lambda n: written(f"def loss(m, x, y): return {n} * model_loss(m, x, y)"),
    "an operator": lambda n: written(f"def loss(m, x, y): return 2 {' */'[n - 1]} model_loss(m, x, y)"),
    "a sign": lambda n: written(f"def loss(m, x, y): return {' +-'[n - 1]} model_loss(m, x, y)"),
    "a name": lambda n: written(f"def loss(m, x, y): return model_loss(m, x, y).{['', 'abs', 'exp'][n - 1]}()"),
    "an order": lambda n: written(f"def loss({['', 'm, x', 'x, m'][n - 1]}, y): return x - m"),
    "in a function inside": lambda n: written(f"def loss(m, x, y): return (lambda z: z * {n})(x)"),
    "in a set": lambda n: written(f"def loss(m, x, y): return x in {{1, 5, {n}}}"),
    "a default": lambda n: written(f"def loss(m, x, y, scale={n}): pass"),
    "a default by keyword": lambda n: written(f"def loss(m, x, y, *, scale={n}): pass"),
    "a number of the notebook": lambda n: written("def loss(m, x, y): return x * factor", factor=n),
    "a function of the notebook": lambda n: written(f"def f(x): return x * {n}\ndef loss(m, x, y): return f(x)"),
    "a function of a file": lambda n: written(
        "def loss(m, x, y): return mine.f(x)", mine=in_a_file(f"def f(x): return x * {n}")
    ),
    "one that wraps another": lambda n: written(
        f"@functools.wraps(model_loss)\ndef loss(*args): return {n} * model_loss(*args)"
    ),
    "one behind a cache": lambda n: written(f"@functools.cache\ndef loss(m, x, y): return {n}"),
    "a class": lambda n: written(f"class loss:\n    def __call__(self, m, x, y): return {n}"),
    "a parent": lambda n: written(f"class A:\n    def f(self): return {n}\nclass loss(A): pass")(),
    "a property": lambda n: written(f"class loss:\n    @property\n    def scale(self): return {n}")(),
    "a static method": lambda n: written(f"class loss:\n    @staticmethod\n    def scale(): return {n}")(),
    "a method": lambda n: Smoothed(n).__call__,
}
WAYS = {"closed over": closed_over, "of a layer": of_a_layer, "of an object": Smoothed,
        "given": lambda thing: functools.partial(mixed, thing)}  # fmt: skip
LOSSES |= {
    f"{name} {way}": lambda n, make=make, around=around: around(make(n))
    for name, make in THINGS.items()
    for way, around in WAYS.items()
}


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_all_that_a_loss_depends_on_counts(make):
    assert described(make(2)) == described(make(2)) != described(make(3))


def test_a_set_has_no_order():
    """Two processes list the same texts in different orders; here two numbers that meet in one place do."""
    assert list({0, 8}) != list({8, 0})
    assert described(closed_over({0, 8})) == described(closed_over({8, 0}))


@pytest.mark.parametrize("thing", PUT_IN)
def test_what_has_been_put_into_a_layer_counts(thing):
    one, again, other = (described(model=with_a(thing, n)) for n in (2, 2, 3))
    assert one == again != other


def test_what_holds_itself_ends_and_a_shared_weight_is_known_as_such():
    layer, apart = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    layer[1].weight = layer[0].weight
    layer.circle = [layer]
    facts = describe_run({"loss_fn": lambda model, x, y: layer(x)}, layer, [])
    assert facts["the model.circle.0"] == facts["loss_fn.layer"] == "the same as the model"
    assert facts["the model.1.weight"] == "the same as the model.0.weight"
    assert describe_run({}, apart, [])["the model.1.weight"] == "2x2 float32 (stored)"


def test_a_model_of_transformers_is_described_twice_the_same():
    facts = described(model=tiny_llama())
    assert facts == described(model=tiny_llama()) != described(model=tiny_llama(rms_norm_eps=1e-5))


def test_any_model_of_transformers_can_start_and_go_on(tiny_text, tmp_path, recwarn):
    """It may keep behind a layer whatever it likes: a context variable, a compiled pattern, a lock."""
    for _ in range(2):
        torch.manual_seed(0)
        model = tiny_llama()
        for thing in (contextvars.ContextVar("kept"), re.compile("a"), threading.Lock()):
            setattr(model.model.layers[0], type(thing).__name__, thing)
        letters = tiny_text._replace(train=tiny_text.train % 60, validation=tiny_text.validation % 60)
        history = train(model, letters, 2, checkpoint=tmp_path / "run", loss_fn=logits_loss, **QUICK)
    assert len(history.train_loss) == 2
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]


def test_a_library_is_known_by_name_and_version_in_editable_mode_too(monkeypatch):
    """A function of it is not taken apart; a reader's own file is."""
    assert same_run._is_installed("lora_edu") and same_run._is_installed("transformers")
    assert not same_run._is_installed("of one's own")
    monkeypatch.setattr(same_run.metadata, "version", {"edited_in_place": "1.0"}.__getitem__)
    module = in_a_file("def f(x): return x * 2")
    module.f.__module__ = module.f.__globals__["__name__"] = "edited_in_place"
    facts = described(module.f)
    assert facts["loss_fn"] == "edited_in_place.f"
    assert facts["the version of edited_in_place"] == "unknown"


CANNOT = {
    "a lock": (threading.Lock, "a _thread.lock, which cannot be compared"),
    "a stream": (lambda: sys.stdout, "which cannot be compared"),
    "an iterator": (lambda: iter("ab" for _ in "a"), "a builtins.generator, which cannot be compared"),
    "a generator": (lambda: random.Random(2), "a random.Random, which cannot be compared"),
}


@pytest.mark.parametrize("thing", CANNOT)
def test_what_cannot_be_compared_starts_and_is_named_when_the_run_goes_on(tiny_gpt, tiny_text, tmp_path, thing):
    make, message = CANNOT[thing]
    model = with_adapters(tiny_gpt)
    with warnings.catch_warnings(action="error"):
        first = go_on(model, tiny_text, tmp_path / "run", 2, loss_fn=closed_over_unused(make()))
    with pytest.warns(UserWarning, match=rf"goes on.*loss_fn\.thing \({message}|loss_fn\.thing.*{message}"):
        assert go_on(model, tiny_text, tmp_path / "run", 2, loss_fn=closed_over_unused(make())) == first


# --- from a checkpoint -----------------------------------------------------------------------------------------------


def one_number(model, text):
    model = with_adapters(model)
    model.final_norm.weight.data[3] += 1e-7
    return model, text


def adapters(**options):
    return lambda model, text: (with_adapters(model, **options), text)


same = adapters()  # as in the run that was stopped
OF_ANOTHER_RUN = [  # the model and the text, options, and what the message names
    (same, {"steps": 8}, "steps is 6 there and 8 here"),
    (same, {"lr": 0.01}, r"lr is 0\.003 there and 0\.01 here"),
    (same, {"batch_size": 2, "seed": 3}, "batch_size is 4 there and 2 here; seed is 0 there and 3 here"),
    (same, {"betas": (0.9, 0.999)}, r"betas is \[0\.9, 0\.95\] there and \[0\.9, 0\.999\] here"),
    (same, {"loss_fn": lambda *a: 3 * model_loss(*a)}, r"loss_fn is lora_edu\.training\.model_loss there and Python\."),
    (adapters(rank=4), {}, r"LoRALinear \(rank=2, .* \(rank=4, .*\(and \d+ more\)\. Use the same settings"),
    (adapters(targets=("q_proj",)), {}, r"k_proj is lora_edu\.lora\.LoRALinear .* there and lora_edu\.qlora\.NF4"),
    (
        adapters(method="full"),
        {},
        r"embedding\.weight is 256x16 float32 \w{12} there and 256x16 float32 \(stored\) here",
    ),
    (one_number, {}, r"final_norm\.weight is 16 float32 \w{12} there and 16 float32 \w{12} here\. Use the same"),
    (lambda m, text: same(m, text._replace(train=text.train.flip(0))), {}, r"the text\.0 is 500 uint8 \w{12} there"),
]


@pytest.mark.parametrize(("make", "options", "message"), OF_ANOTHER_RUN, ids=[row[2][:30] for row in OF_ANOTHER_RUN])
def test_a_checkpoint_of_another_run(tiny_gpt, tiny_text, stopped, make, options, message):
    model, text = make(tiny_gpt, tiny_text)
    with refused(model, ValueError, f"step-00000004.safetensors is a checkpoint of another run: .*{message}"):
        go_on(model, text, stopped, **options)
    assert stored_steps(stopped) == [2, 4]


def test_another_default_type_is_another_run(tiny_gpt, tiny_text, stopped):
    model = with_adapters(tiny_gpt)
    torch.set_default_dtype(torch.float64)
    with refused(model, ValueError, "the default type is torch.float32 there and torch.float64 here"):
        go_on(model, tiny_text, stopped)


def test_a_loss_that_changes_while_it_trains_goes_on_with_what_it_has_become_only(tiny_gpt, tiny_text, tmp_path):
    """A list that it fills, a teacher that follows: what no checkpoint holds is described as it was at the stop."""

    text = "def loss(model, x, y):\n    seen.append(1)\n    return model_loss(model, x, y)"
    noting, again = written(text, seen=[]), written(text, seen=[])
    first = go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run", 2, loss_fn=noting)
    with pytest.raises(ValueError, match=r"loss_fn\.seen is \[1, 1.*\] there and \[\] here"):
        go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run", 2, loss_fn=again)
    assert go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run", 2, loss_fn=noting) == first


def test_other_versions_are_named_and_the_run_goes_on(tiny_gpt, tiny_text, stopped, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "1.2.3")
    with pytest.warns(UserWarning, match=r"goes on, .*the version of torch is \S+ there and 1\.2\.3 here"):
        assert len(go_on(with_adapters(tiny_gpt), tiny_text, stopped).train_loss) == 6


# What a library made, before and after its update from version 1 to 2; whether the run goes on.
UPDATES = [
    ("lib.Layer (eps=1)", "lib.Layer (eps=1, new=True)", True),
    ("missing", "lib.Cache ()", True),
    ("lib.Layer (eps=1)", "lib.Other (eps=1)", False),
    ("2x2 float32 0a1b2c", "2x2 float32 3d4e5f", False),
    ("Python.loss (0a1b2c)", "Python.loss (3d4e5f)", False),  # one's own: not the library's
]


@pytest.mark.parametrize(("there", "here", "goes_on"), UPDATES)
def test_a_library_updated_between_stop_and_start_warns(there, here, goes_on):
    def facts(version, text):
        table = {"the version of lib": version, "the version of Python": "3.11", "the model.0": text}
        return {name: fact for name, fact in table.items() if fact != "missing"}

    old = facts("1", there)
    with pytest.raises(ValueError, match="another run: the model.0"):
        check_same_run(old, facts("1", here), Path("run"))
    if goes_on:
        with pytest.warns(UserWarning, match=r"version of lib is 1 there and 2 here; the model\.0 is"):
            check_same_run(old, facts("2", here), Path("run"))
    else:
        with pytest.raises(ValueError, match="another run: the model.0"):
            check_same_run(old, facts("2", here), Path("run"))

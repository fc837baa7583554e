import hashlib
import json
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from lora_edu.experiments import nb01
from lora_edu.experiments import runs as experiments
from lora_edu.experiments.nb01 import loss_at_ranks, weight_updates
from lora_edu.experiments.runs import Experiment, load_results, run, run_arm
from lora_edu.gpt import GPT
from lora_edu.models.pretrain import base_path
from lora_edu.training import evaluate


@pytest.fixture
def counted(monkeypatch):
    """An experiment with two arms that notes its calls, and can be told to fail."""
    calls = []

    def double(x, seed, folder, progress):
        if x in calls or x == "stop":
            raise KeyboardInterrupt
        calls.append(x)
        return {"result": 2 * x + seed}

    experiment = Experiment(double, {"one": {"x": 1}, "two": {"x": 2}}, seed=10)
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"counted": experiment})
    return calls, experiment


def test_a_run_stores_its_arms_and_how_to_repeat_it(counted, tmp_path):
    result = run("counted", tmp_path)
    assert result == json.loads((tmp_path / "counted.json").read_text())
    assert result["arms"] == {"one": {"result": 12}, "two": {"result": 14}}
    assert result["command"] == "lora-edu experiment counted" and result["seed"] == 10
    assert set(result["versions"]) == {"python", "torch", "numpy"} and "CPU" in result["machine"]


def test_a_stopped_run_goes_on_with_the_next_arm(counted, tmp_path):
    calls, experiment = counted
    experiment.arms["two"]["x"] = "stop"
    with pytest.raises(KeyboardInterrupt):
        run("counted", tmp_path)
    stored = json.loads((tmp_path / "counted.json").read_text())
    assert list(stored["arms"]) == ["one"]
    stored["settings"]["two"]["x"] = experiment.arms["two"]["x"] = 2
    (tmp_path / "counted.json").write_text(json.dumps(stored))
    assert run("counted", tmp_path)["arms"] == {"one": {"result": 12}, "two": {"result": 14}}
    assert calls == [1, 2]  # arm "one" was not run again: that would have raised


def test_arms_of_two_experiments_are_not_mixed(counted, tmp_path):
    _, experiment = counted
    run("counted", tmp_path)
    experiment.arms["two"]["x"] = 3
    with pytest.raises(ValueError, match="made with another settings: delete it to run the experiment anew"):
        run("counted", tmp_path)


def test_arms_that_came_later_join_those_that_are_stored(counted, tmp_path):
    calls, experiment = counted
    run("counted", tmp_path)
    experiment.arms["three"] = {"x": 3}
    result = run("counted", tmp_path)
    assert list(result["arms"]) == list(result["settings"]) == ["one", "two", "three"]
    assert calls == [1, 2, 3]
    del experiment.arms["two"]  # its stored number would lose the settings it was made with
    with pytest.raises(ValueError, match="made with another settings"):
        run("counted", tmp_path)


def test_unknown_names(counted):
    for function in (run, load_results, lambda name: run_arm(name, "one")):
        with pytest.raises(ValueError, match="unknown experiment 'none': choose one of counted"):
            function("none")
    with pytest.raises(ValueError, match="unknown arm 'three' of 'counted': choose one of one, two"):
        run_arm("counted", "three")
    with pytest.raises(FileNotFoundError, match=r"run lora-edu experiment counted"):
        load_results("counted")


def test_the_command(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiments", "counted", "--folder", str(tmp_path)])
    experiments.main()
    assert (tmp_path / "counted.json").exists()
    monkeypatch.setattr(sys, "argv", ["experiments", "none"])
    with pytest.raises(SystemExit):
        experiments.main()


@pytest.fixture
def tuned(tiny_gpt):
    """A copy of the tiny model with other weights everywhere."""
    other = GPT(tiny_gpt.config).eval()
    other.load_state_dict(
        {name: value + 0.1 * torch.randn_like(value) for name, value in tiny_gpt.state_dict().items()}
    )
    return other


def test_updates_are_those_of_the_block_layers(tiny_gpt, tuned):
    updates = weight_updates(tiny_gpt, tuned)
    assert len(updates) == 6 * tiny_gpt.config.n_layers and "lm_head" not in updates
    path = "blocks.1.mlp.up_proj"
    expected = tuned.blocks[1].mlp.up_proj.weight - tiny_gpt.blocks[1].mlp.up_proj.weight
    assert np.array_equal(updates[path], expected.detach().numpy()) and updates[path].shape == (64, 16)


@pytest.mark.parametrize("kept", ["largest", "random"])
def test_cut_updates_lead_from_the_base_to_all_of_them(tiny_gpt, tuned, tiny_text, kept, monkeypatch):
    monkeypatch.setattr(nb01, "evaluate", lambda model, tokens, max_windows: evaluate(model, tokens, seq_len=32))
    updates, tokens = weight_updates(tiny_gpt, tuned), tiny_text.train
    before = {name: value.clone() for name, value in tiny_gpt.state_dict().items()}
    nothing, all_of_it = loss_at_ranks(tiny_gpt, updates, tokens, (0, 16), kept)
    for path, dW in updates.items():
        tuned_layer = tiny_gpt.get_submodule(path)
        assert torch.equal(tuned_layer.weight, before[f"{path}.weight"])  # the base itself is left alone
        tuned_layer.weight.data += torch.from_numpy(dW)
    assert all_of_it == pytest.approx(evaluate(tiny_gpt, tokens, seq_len=32), abs=1e-4)
    tiny_gpt.load_state_dict(before)
    assert nothing == pytest.approx(evaluate(tiny_gpt, tokens, seq_len=32), abs=1e-4)


def test_the_random_cut_has_the_norm_of_the_largest(tiny_gpt, tuned, monkeypatch):
    updates, norms = weight_updates(tiny_gpt, tuned), {}
    path = "blocks.0.mlp.down_proj"

    def norm_of_the_change(model, tokens, max_windows):
        change = model.get_submodule(path).weight - tiny_gpt.get_submodule(path).weight
        norms.setdefault(
            len(norms), (change.norm().item(), torch.linalg.matrix_rank(change.double(), rtol=1e-4).item())
        )
        return 0.0

    monkeypatch.setattr(nb01, "evaluate", norm_of_the_change)
    for kept in ("largest", "random"):
        loss_at_ranks(tiny_gpt, updates, None, (3,), kept)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5) and norms[0][1] == 3


def test_update_rank_runs_an_arm(tiny_gpt, tiny_text, tmp_path, monkeypatch):
    long_text = type(tiny_text)(tiny_text.train.repeat(2), tiny_text.train.repeat(2))
    monkeypatch.setattr(nb01, "load_base", lambda size: copy_of(tiny_gpt))
    monkeypatch.setattr(nb01, "load_text", lambda name: long_text)
    monkeypatch.setattr(nb01, "train", lambda *a, **k: short_train(*a, **k))
    monkeypatch.setattr(nb01, "evaluate", lambda m, t, max_windows: evaluate(m, t, seq_len=32, max_windows=4))
    layer = "blocks.1.attention.v_proj"
    result = nb01.update_rank(3, ranks=(0, 2), store=layer, folder=tmp_path, progress=False)
    assert [done for done, _ in result["validation_loss"]] == [0, 3]
    assert len(result["singular_values"]) == 12 and len(result["loss_with_random"]) == 2
    dW = load_file(tmp_path / "update-rank.safetensors")[layer]
    S = np.linalg.svd(dW.astype(np.float64), compute_uv=False)
    assert np.allclose(S, result["singular_values"][layer]["dW"], rtol=1e-4) and S[0] > 0
    json.dumps(result)  # plain numbers and lists only


def copy_of(model):
    other = GPT(model.config).eval()
    other.load_state_dict(model.state_dict())
    return other


def short_train(*arguments, **options):
    from lora_edu.training import train

    return train(*arguments, seq_len=32, device="cpu", **options)


def test_the_stored_result_belongs_to_the_shipped_base():
    stored = load_results("update-rank")
    assert stored["settings"] == json.loads(json.dumps(experiments.EXPERIMENTS["update-rank"].arms))
    assert stored["base_sha256"] == hashlib.sha256(base_path("laptop").read_bytes()).hexdigest(), (
        "the base was trained anew: delete data/results/update-rank.* and run the experiment again"
    )
    W, dW = nb01.weight_and_update()
    claimed = stored["arms"]["150 steps"]["singular_values"][nb01.STORED_LAYER]
    for matrix, name in ((W, "W"), (dW, "dW")):
        S = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
        assert np.allclose(S, claimed[name], atol=2e-5 * S[0])  # stored with five digits
    path = experiments.results_folder() / "update-rank.safetensors"
    assert path.stat().st_size < 300_000

"""Adapters of Hugging Face models: written here and loaded by PEFT, and the other way round, with equal logits.

The models are tiny and randomly initialized: a GPT-2, whose query, key and value are one fused `Conv1D` with a weight
of shape (in, out), and a Llama with fewer key heads than query heads. No adapted layer is square except where the
architecture makes it so, and alpha is never the rank.
"""

import copy

import peft
import pytest
import torch

from lora_edu.lora import add_lora, merge
from lora_edu.peft_io import load_adapter, save_adapter
from tests.other_models import tiny_gpt2, tiny_llama

TOKENS = torch.randint(0, 60, (2, 12), generator=torch.Generator().manual_seed(2))


MODELS = {
    "gpt2": (tiny_gpt2, ["c_attn", "c_fc"]),
    "gpt2-all": (tiny_gpt2, ["c_attn", "c_proj", "c_fc"]),
    "llama": (tiny_llama, ["k_proj", "v_proj", "down_proj"]),
    "llama-all": (tiny_llama, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
}


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True, "lora_dropout": 0.1}], ids=str)
@pytest.mark.parametrize(("make", "targets"), MODELS.values(), ids=MODELS)
def test_we_load_what_peft_trained_and_it_what_we_save(make, targets, tmp_path, settings):
    base = make()
    before = logits(base)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, fan_in_fan_out="c_attn" in targets, **settings)
    theirs = peft.get_peft_model(copy.deepcopy(base), config)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=3e-2)
    for _ in range(3):  # B leaves zero in the first step, A in the second
        theirs(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    theirs.eval().save_pretrained(tmp_path)
    ours = load_adapter(copy.deepcopy(base), tmp_path)
    assert (logits(ours) - before).abs().max() > 1e-2
    assert torch.allclose(logits(ours), logits(theirs), atol=1e-5)
    again = load_adapter(copy.deepcopy(base), save_adapter(ours, tmp_path / "again"))
    assert torch.equal(logits(again), logits(ours))
    assert torch.allclose(logits(peft.PeftModel.from_pretrained(base, tmp_path / "again")), logits(theirs), atol=1e-5)
    assert torch.allclose(logits(merge(ours)), logits(theirs.merge_and_unload()), atol=1e-5)


def test_a_rank_above_the_smaller_side_is_loaded_and_said(tmp_path):
    """PEFT makes, saves and loads it, though B A has no more directions than the smaller side."""
    base = tiny_llama()  # k_proj is 12 x 24
    with pytest.raises(ValueError, match="rank must be between 1 and 12"):
        add_lora(copy.deepcopy(base), 20, 30, "k_proj")
    config = peft.LoraConfig(r=20, lora_alpha=30, target_modules=["k_proj", "up_proj"], init_lora_weights=False)
    theirs = peft.get_peft_model(copy.deepcopy(base), config).eval()
    theirs.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"rank 20 is above 12, the smaller side of a 12x24 layer.*12 would do"):
        ours = load_adapter(copy.deepcopy(base), tmp_path)
    assert torch.allclose(logits(ours), logits(theirs), atol=1e-5)
    assert not torch.allclose(logits(ours), logits(base), atol=1e-2)
    with pytest.warns(UserWarning, match="rank 20"):
        again = load_adapter(base, save_adapter(ours, tmp_path / "again"))
    assert torch.equal(logits(merge(again)), logits(merge(ours)))

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from flextune.files import read_json
from flextune.tuning import merging


@pytest.fixture
def adapter(tiny_model, tmp_path):
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_merge_checks_and_measures(call, adapter, tmp_path):
    options = ("--check", "--benchmark", "basics-python", "--limit", 2, "--max-new-tokens", 4, "--dtype", "float32")
    code, out, _ = call("merge", adapter, *options)
    assert code == 0
    assert "Merged and unmerged are equal in float32, up to round-off" in out
    assert "basics-python, merged against unmerged: +0.0 points" in out
    found = read_json(tmp_path / "adapter-merged" / "merge.json")["check"]
    assert (found["fault"], found["rows"][0]["name"]) == (None, "merged, float32")
    rows = read_json(tmp_path / "adapter-merged-measured" / "comparison.json")
    assert [(row["variant"], row["against"]) for row in rows] == [("merged", "unmerged")]


def test_a_broken_merge_fails(call, adapter, monkeypatch):
    real = merging.with_adapter

    def twice(model, folder, merged=False, **options):
        model = real(model, folder, merged=merged, **options)
        return real(model, folder, merged=True, **options) if merged else model

    monkeypatch.setattr(merging, "with_adapter", twice)
    code, out, err = call("merge", adapter, "--check")
    assert code == 1
    assert "The merge is broken" in out
    assert "the merged weights are not the model that was trained" in err


def test_the_spectrum_of_a_run_stays_with_the_run(call, adapter):
    (adapter.parent / "recipe.yaml").write_text("model: m\n")
    code, out, _ = call("spectrum", adapter.parent, "--permutations", 3)
    assert code == 0
    assert "shows the figures" in " ".join(out.split())
    assert read_json(adapter.parent / "spectrum.json")["permutations"] == 3

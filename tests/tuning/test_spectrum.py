"""Spectra against transforms of the whole matrices, and adapters as PEFT saves them."""

import json
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from flextune.errors import FlextuneError
from flextune.tuning import spectrum as module
from flextune.tuning.spectrum import Cuts, factor_power, labels, product_power, spectrum

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)


def frequency(size):
    """The relative frequency of each bin of a full transform, of either sign."""
    return torch.tensor([min(k, size - k) / (size // 2 + 1) for k in range(size)], dtype=torch.float64)


def save(folder, tensors, **config):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({f"base_model.model.{name}": w.contiguous() for name, w in tensors.items()}, folder / WEIGHTS)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}))
    return folder


def white(inputs=96, outputs=120, name="layers.3.gate_proj"):
    return {f"{name}.lora_A.weight": torch.randn(4, inputs), f"{name}.lora_B.weight": torch.randn(outputs, 4)}


@pytest.mark.parametrize("size", [1, 2, 7, 30, 31])
def test_a_factor_against_its_full_transform(size, generator):
    w = torch.randn(size)
    cuts = Cuts(0.3, 4)
    power = factor_power(w, cuts, 3, generator)
    energy = torch.fft.fft(w.double(), norm="ortho").abs().square()
    for column, share in enumerate(cuts.shares):
        below = frequency(size) < share
        assert power[0, column].item() == pytest.approx(energy[below].sum().item(), abs=1e-5)
        assert power[-1, column].item() == pytest.approx(below.double().mean().item() * energy.sum().item(), abs=1e-5)
    assert power[:, -1].tolist() == pytest.approx([w.square().sum().item()] * 5, rel=1e-5)


@pytest.mark.parametrize(("inputs", "outputs"), [(12, 9), (9, 12), (8, 16), (7, 11)])
def test_a_product_against_its_two_dimensional_transform(inputs, outputs, generator):
    a, b = torch.randn(3, inputs), torch.randn(outputs, 3)
    cuts = Cuts(0.45, 4)
    power, (map_, white_map) = product_power(a, b, cuts, 2, generator)
    energy = torch.fft.fft2(b.double() @ a.double(), norm="ortho").abs().square()
    total = energy.sum().item()
    for p, high in enumerate(cuts.shares):
        for q, wide in enumerate(cuts.shares):
            below = torch.outer(frequency(outputs) < high, frequency(inputs) < wide)
            assert map_[p, q].item() == pytest.approx(energy[below].sum().item(), abs=1e-5 * total)
            assert white_map[p, q].item() == pytest.approx(below.double().mean().item() * total, abs=1e-5 * total)
    torch.testing.assert_close(power[0], map_.diagonal())
    torch.testing.assert_close(power[-1], white_map.diagonal())
    assert power[:, -1].tolist() == pytest.approx([(b @ a).square().sum().item()] * 4, rel=1e-5)


def test_the_share_above_counts_from_the_first_bin_at_the_threshold(generator):
    size = 58  # 30 bins; 0.1 · 30 is 3.0000000000000004 for a computer
    wave = torch.cos(2 * math.pi * 3 * torch.arange(size) / size)
    for threshold, share in ((0.1, 1), (0.11, 0), (1, 0)):
        cuts = Cuts(threshold, 32)
        described = cuts.describe(factor_power(wave, cuts, 1, generator))
        assert described["share_above"] == pytest.approx(share, abs=1e-5)


def test_permutations_move_entries_of_factors_and_channels_of_the_product(generator):
    same_entries_in_a_channel = torch.randn(4, 1).expand(4, 20)  # channels are equal, entries are not
    cuts = Cuts(0.5, 8)
    power, _ = product_power(same_entries_in_a_channel, same_entries_in_a_channel.mT, cuts, 5, generator)
    torch.testing.assert_close(power[1:-1], power[:1].expand(5, -1))
    power = factor_power(same_entries_in_a_channel.flatten(), cuts, 5, generator)
    assert (power[1:-1] - power[:1]).abs().amax(1).min() > 0.01 * power[0, -1]


def test_chunks_change_nothing(monkeypatch):
    w, cuts = torch.randn(50), Cuts(0.5, 8)
    whole = factor_power(w, cuts, 10, torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "CHUNK", 120)
    torch.testing.assert_close(factor_power(w, cuts, 10, torch.Generator().manual_seed(0)), whole)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(12, 21), "conv": nn.Conv2d(3, 5, 3)}) for _ in range(2)
        )
        self.head = nn.Linear(12, 30)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_saves(tmp_path, rslora):
    torch.manual_seed(0)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=rslora,
        rank_pattern={"layers.1.up": 2},
        alpha_pattern={"^layers.0.up": 5},
        target_modules=["embed", "up", "conv"],
        modules_to_save=["head"],
        init_lora_weights=False,
    )
    model = get_peft_model(Net(), config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    (found,) = spectrum([tmp_path / "adapter"], permutations=2, bands=4)["adapters"]
    base = model.base_model.model
    layers = {
        "embed": base.embed.float(),
        **{f"{kind}{number}": base.layers[number][kind].float() for number in (0, 1) for kind in ("up", "conv")},
    }
    square = {name: layer.get_delta_weight("default").square().sum().item() for name, layer in layers.items()}
    assert found["modules"] == 5
    assert found["ranks"] == [2, 4]
    assert found["unpaired"] == []
    assert found["overall"]["delta"]["norm"] ** 2 == pytest.approx(sum(square.values()), rel=1e-4)
    assert {name: parts["delta"]["norm"] ** 2 for name, parts in found["types"].items()} == pytest.approx(
        {kind: sum(square[name] for name in square if name.startswith(kind)) for kind in ("embed", "conv", "up")},
        rel=1e-4,
    )
    assert [entry["layer"] for entry in found["layers"]] == [0, 1, None]
    assert found["layers"][1]["delta"]["norm"] ** 2 == pytest.approx(square["up1"] + square["conv1"], rel=1e-4)
    a = load_file(tmp_path / "adapter" / WEIGHTS)["base_model.model.embed.lora_embedding_A"]
    assert found["layers"][2]["A"]["norm"] == pytest.approx(a.float().norm().item(), rel=1e-5)
    for parts in (found["overall"], *found["types"].values(), *found["layers"]):
        for measures in (parts["A"], parts["B"], parts["delta"]):
            assert sum(measures["power"]) == pytest.approx(measures["norm"] ** 2)
            assert sum(measures["white"]) == pytest.approx(measures["norm"] ** 2)
    assert sum(map(sum, found["map"]["power"])) == pytest.approx(found["overall"]["delta"]["norm"] ** 2)


def test_other_tensors_in_the_file_are_left_alone(tmp_path):
    factors = white()
    extra = {
        "layers.3.gate_proj.lora_magnitude_vector": torch.ones(120),
        "layers.3.gate_proj.lora_B.bias": torch.ones(120),
        "head.weight": torch.ones(5, 5),
    }
    alone, with_extra = save(tmp_path / "alone", factors), save(tmp_path / "extra", {**factors, **extra})
    first, second = spectrum([alone, with_extra], permutations=2)["adapters"]
    assert (first["label"], second["label"]) == ("alone", "extra")
    assert {**first, "label": "", "folder": ""} == {**second, "label": "", "folder": ""}


def test_factors_that_do_not_pair_have_no_product(tmp_path):
    experts = {"layers.0.experts.lora_A.weight": torch.randn(8, 6), "layers.0.experts.lora_B.weight": torch.randn(6, 8)}
    nested = {name.replace("experts.", "experts.base_layer."): w.clone() for name, w in experts.items()}
    folder = save(tmp_path / "experts", {**experts, **nested})  # two experts of rank 4 in each
    (found,) = spectrum([folder], permutations=2)["adapters"]
    assert sorted(found["unpaired"]) == ["layers.0.experts", "layers.0.experts.base_layer"]
    assert list(found["types"]) == ["experts"]
    assert found["overall"]["A"]["norm"] == pytest.approx(
        math.sqrt(2) * experts["layers.0.experts.lora_A.weight"].norm()
    )
    assert found["overall"]["delta"]["share_above"] is None
    assert found["map"] is None


@pytest.mark.filterwarnings("error")
def test_before_the_first_step(tmp_path):
    factors = {name: w * ("lora_A" in name) for name, w in white().items()}
    content = spectrum([save(tmp_path / "fresh", factors)], permutations=3)
    assert "NaN" not in json.dumps(content)
    overall = content["adapters"][0]["overall"]
    assert overall["A"]["share_above"] is not None
    for part in ("B", "delta"):
        assert overall[part]["norm"] == 0
        assert overall[part]["share_above"] is None
        assert overall[part]["null"]["share_above"] is None
    assert content["adapters"][0]["map"] is None


def test_smooth_factors_are_told_from_noise(tmp_path):
    torch.manual_seed(3)
    noise = white()
    smooth = {name: w.flatten().cumsum(0).view_as(w) for name, w in noise.items()}
    first, second = spectrum([save(tmp_path / "noise", noise), save(tmp_path / "smooth", smooth)])["adapters"]
    for part in ("A", "B", "delta"):
        chance = first["overall"][part]["null"]["share_above"]
        assert chance["low"] <= first["overall"][part]["share_above"] <= chance["high"]
        assert chance["low"] < chance["mean"] < chance["high"]
        assert second["overall"][part]["share_above"] < second["overall"][part]["null"]["share_above"]["low"]
    null = second["overall"]["A"]["null"]["power"]
    assert all(low < high for low, high in zip(null["low"], null["high"], strict=True))
    assert second["overall"]["A"]["power"][0] > null["high"][0]


def test_the_seed_decides_and_neighbours_do_not(tmp_path):
    one, other = save(tmp_path / "one", white()), save(tmp_path / "other", white(inputs=50))
    first = spectrum([one, other], permutations=3, seed=5)
    assert first == spectrum([one, other], permutations=3, seed=5)
    assert first["adapters"][1] == spectrum([other], permutations=3, seed=5)["adapters"][0]
    assert first["adapters"][1] != spectrum([other], permutations=3, seed=6)["adapters"][0]


def test_labels_tell_folders_apart(tmp_path):
    assert labels([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert labels([tmp_path / "x/a/adapter", tmp_path / "y/a/adapter"]) == ["x/a", "y/a"]
    assert labels([tmp_path / "run/adapter", tmp_path / "run"]) == ["adapter", "run"]
    with pytest.raises(FlextuneError, match="named twice"):
        labels([tmp_path / "a", tmp_path / "a/../a"])


def spoil(folder, what):
    config, weights = folder / "adapter_config.json", folder / WEIGHTS
    match what:
        case "folder":
            return folder / "nothing"
        case "config":
            config.unlink()
        case "run":
            return folder.parent
        case "type":
            config.write_text('{"peft_type": "LOHA"}')
        case "list":
            config.write_text("[]")
        case "weights":
            weights.rename(folder / "adapter_model.bin")
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-10])
        case "empty":
            save_file({"head.weight": torch.ones(2)}, weights)
        case "infinite":
            save(folder, {**white(), "layers.0.up.lora_A.weight": torch.tensor([[math.inf]])})
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("folder", "nothing is not a folder"),
        ("config", "is not a PEFT adapter: it has no adapter_config.json$"),
        ("run", "did you mean .*adapter"),
        ("type", "peft_type is 'LOHA', expected 'LORA'"),
        ("list", "peft_type is None"),
        ("weights", r"has no adapter_model.safetensors \(found adapter_config.json, adapter_model.bin\)"),
        ("cut", "is not a whole safetensors file"),
        ("empty", "has no LoRA factors: it has head.weight"),
        ("infinite", "base_model.model.layers.0.up.lora_A.weight has entries that are not finite"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, what, message):
    folder = spoil(save(tmp_path / "adapter", white()), what)
    with pytest.raises(FlextuneError, match=message):
        spectrum([folder], permutations=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0}, r"threshold = 0: expected a number in \(0, 1\]"),
        ({"threshold": 1.5}, "threshold = 1.5"),
        ({"threshold": math.nan}, "threshold = nan"),
        ({"permutations": 0}, "permutations = 0: expected an integer of at least 1"),
        ({"bands": 0}, "bands = 0"),
        ({"folders": []}, "at least one"),
    ],
)
def test_arguments_out_of_range(tmp_path, arguments, message):
    with pytest.raises(FlextuneError, match=message):
        spectrum(**{"folders": [save(tmp_path / "adapter", white())], **arguments})

"""The paper's rows: every recipe is whole, and its arithmetic is the paper's."""

import dataclasses
import re
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from transformers import LlamaConfig

from flextune import hub
from flextune.errors import FlextuneError, UsageError
from flextune.estimate import estimate
from flextune.recipe import PACKAGED, dump_recipe, load_recipe
from flextune.report.sweep import read_sweep
from flextune.studies.rows import CONTROLS, PAPER, TABLE_3, find, names, overrides_of, recipe_of, used_by

KEPT = Path(__file__).parents[2] / "results"
# by row: what is trained of Code Llama 7B
TRAINED = {
    "round-1": 11_927_552,  # Table 1, “approximately 11.9 million”
    "round-2": 11_927_552,
    "round-2-sophia": 11_927_552,
    "round-3c": 11_927_552,
    "round-5": 11_599_872,  # section 8.4
    "table-4-comprehensive": 11_927_552,
    "table-4-standard": 4_194_304,
    "plain": 11_599_872,
}
# Tables 2 and 4 and what the Python variant of Code Llama is said to reach, in per cent
REPORTED = [34.15, 40.1, 36.59, 33.25, 31.46, 27.37, 31.1, 32.93, 42.07, 42.1, 38.4, 35.4, 34.2, 38.4, 35.4]
TUNED = {"learning_rate": 4e-4, "validation": "mbpp-validation", "checkpoint_steps": 20, "patience": 2}
SAME = (
    "training.batch_size",
    "training.learning_rate",
    "training.schedule",
    "training.max_length",
    "adapter",
    "penalty",
)


@pytest.fixture(scope="module")
def code_llama(tmp_path_factory):
    """A folder with Code Llama 7B's configuration, and no weights."""
    folder = tmp_path_factory.mktemp("code-llama")
    LlamaConfig(
        vocab_size=32_016, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32
    ).save_pretrained(folder)
    return folder


def test_every_number_of_the_paper_has_its_row():
    assert set(PAPER) <= set(names("paper"))
    claims = [100 * claim.value for claimed in PAPER.values() for claim in claimed]
    assert sorted(claims) == pytest.approx(sorted(REPORTED))
    assert {claim.row for claim in TABLE_3} <= set(names("paper"))
    for row, claimed in PAPER.items():
        recipe = recipe_of("paper", row)
        for claim in claimed:  # the recipe measures what the paper reports
            assert claim.benchmark in recipe.evaluation.benchmarks
            assert claim.variant in recipe.variants


@pytest.mark.parametrize("row", names("paper"))
def test_a_dry_run_of_every_row_of_the_paper(row, code_llama, data):
    overrides = [f"model={code_llama}", f"data={data}", "training.dataset=mbpp", "training.validation=null"]
    overrides += [] if "round-2" not in row else ["training.solutions=1"]
    found = estimate(recipe_of("paper", row, overrides))
    assert found.parameters == 6_738_546_688
    assert found.trainable == TRAINED.get(row)
    assert (found.steps is not None) == (row in TRAINED)
    assert found.texts > 0


def test_shares_and_memory_are_those_of_the_notes(code_llama, data):
    def of(*keys):
        return estimate(recipe_of("paper", "round-1", [f"model={code_llama}", f"data={data}", *keys]))

    assert f"{of().trainable / of().parameters:.4%}" == "0.1770%"
    weights = of("dtype=float16", "generation.concurrency=1", "generation.max_new_tokens=1")
    # 12,853 MiB of float16 weights, the adapter, and keys and values of 513 tokens of half a MiB
    assert weights.generation_gib * 1024 == pytest.approx(12_853 + 11_927_552 * 4 / 2**20 + 513 / 2, abs=2)
    four = of("quantization=nf4", "generation.concurrency=1", "generation.max_new_tokens=1")
    assert four.generation_gib * 1024 == pytest.approx(3_686 + 11_927_552 * 4 / 2**20 + 513 / 2, rel=0.01)
    assert (
        of("training.gradient_checkpointing=true").training_gib < of().training_gib < of("training.kl=1").training_gib
    )
    assert of("training.batch_tokens=512").steps is None  # it depends on the lengths
    assert of("adapter.peft.init_lora_weights=pissa").trainable == 11_927_552


def test_steps_are_those_of_the_training(code_llama, data):
    found = estimate(
        recipe_of(
            "paper", "round-5", [f"model={code_llama}", f"data={data}", "training.limit=3", "training.batch_size=2"]
        )
    )
    assert (found.examples, found.steps) == (3, 6)


def test_a_model_that_cannot_be_had(monkeypatch, data):
    monkeypatch.setattr(hub, "online", lambda: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # as the real one does
    with pytest.raises(FlextuneError, match=r"configuration of codellama/CodeLlama-7b-hf cannot be read.*model=FOLDER"):
        estimate(recipe_of("paper", "round-0", [f"data={data}"]))


def test_small_rows_are_the_papers_but_for_their_size():
    for row in set(names("small")) & set(names("paper")) & set(TRAINED):
        small, paper = (yaml.safe_load(dump_recipe(recipe_of(scale, row))) for scale in ("small", "paper"))
        for key in SAME:
            one, two = small, paper
            for part in key.split("."):
                one, two = one[part], two[part]
            assert one == two, f"{row}: {key}"


def test_controls_differ_from_the_penalised_row_in_one_thing():
    without = {"penalty": {"strength": 0.0}}
    for row, changed in (
        ("plain", without),
        ("plain-attention", without),
        ("permuted", {"penalty": {"form": "permuted"}}),
        ("l2", {"penalty": {"form": "l2"}}),
        ("kl", {"penalty": {"strength": 0.0}, "training": {"kl": 0.1}}),
        ("tuned", {"penalty": {"strength": 0.0}, "training": TUNED}),
    ):
        penalised = "table-4-standard" if row == "plain-attention" else "round-5"
        one, control = (yaml.safe_load(dump_recipe(recipe_of("small", name))) for name in (penalised, row))
        for section in ("training", "adapter", "evaluation", "generation"):
            assert control[section] == one[section] | changed.get(section, {}), f"{row}: {section}"
        assert {k: v for k, v in control["penalty"].items() if v != one["penalty"][k]} == changed["penalty"]
    assert set(CONTROLS) <= set(names("small"))


def test_a_row_that_goes_on_from_another_names_one_that_trains():
    for scale in ("paper", "small"):
        for row in names(scale):
            for other in used_by(recipe_of(scale, row)).values():
                assert recipe_of(scale, other).training is not None


def test_a_folder_that_is_no_model(tmp_path, data):
    with pytest.raises(FlextuneError, match=r"the configuration of .* cannot be read: .*model=FOLDER") as raised:
        estimate(recipe_of("paper", "round-0", [f"model={tmp_path}", f"data={data}"]))
    assert "\n" not in str(raised.value)


def test_names():
    assert (find("paper", "3A"), find("small", "0"), find("small", "scale-0.5")) == ("round-3a", "round-0", "scale-0.5")
    with pytest.raises(UsageError, match=r"'9' is no row of scale small; there are round-0, .*plain"):
        find("small", "9")
    with pytest.raises(UsageError, match="scale = 'big': expected paper or small"):
        names("big")
    packaged = {path.stem for path in (PACKAGED / "small").glob("*.yaml")}
    assert packaged - {"optimizers", "search"} == set(names("small"))  # none is forgotten


def test_the_tuned_row_is_the_best_of_its_search():
    search = load_recipe("recipes/small/search.yaml")
    assert search.sweep.grid() == [{"training.learning_rate": rate} for rate in (5e-5, 1e-4, 2e-4, 4e-4)]
    made, chosen = recipe_of("small", "tuned"), {"learning_rate": TUNED["learning_rate"]}
    assert made.training == dataclasses.replace(search.training, **chosen)
    assert made.adapter == search.adapter
    found = read_sweep(KEPT / "small" / "search")
    assert found["trials"][found["best"]]["settings"] == {f"training.{key}": rate for key, rate in chosen.items()}
    assert found["recipe"]["sweep"]["space"] == {"training.learning_rate": [5e-5, 1e-4, 2e-4, 4e-4]}


@pytest.mark.parametrize("row", names("paper"))
def test_each_recipe_names_its_open_choices(row):
    path = PACKAGED / "paper" / f"{row}.yaml"
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    chosen = set(re.findall("“(.+?)”", first))
    notes = (Path(__file__).parents[2] / "docs/paper-notes.md").read_text(encoding="utf-8")
    headings = {re.sub("^#+ ", "", line).partition(":")[0] for line in notes.splitlines() if line.startswith("##")}
    headings |= {re.sub("^#+ ", "", line) for line in notes.splitlines() if line.startswith("##")}
    assert chosen <= headings
    made = load_recipe(path)
    penalised = made.training is not None and made.penalty.strength > 0
    assert ("Which decoding" in chosen) == bool(made.evaluation.benchmarks)
    assert ("How many problems in Java" in chosen) == ("humaneval-java" in made.evaluation.benchmarks)
    assert ("Which norm, and sum or mean" in chosen) == penalised
    assert ("Which problems of MBPP" in chosen) == bool(made.training and made.training.dataset == "mbpp")
    assert ("Merged below unmerged" in chosen) >= (made.variants == ["unmerged", "merged"])


def test_a_model_that_is_named_stands_for_one_model():
    def of(row, *asked):
        return overrides_of("paper", row, asked, ["model=x", "revision=y", "seed=3"])

    everything = ["model=x", "revision=y", "seed=3"]
    assert of("round-0", "round-0", "code-llama-python") == everything
    assert of("code-llama-python", "code-llama-python", "round-0") == ["seed=3"]
    assert of("code-llama-python", "code-llama-python") == everything


def test_keys_of_training_change_only_what_trains():
    assert recipe_of("small", "round-0", ["training.epochs=2", "seed=3"]).training is None
    assert recipe_of("small", "round-5", ["training.epochs=2"]).training.epochs == 2

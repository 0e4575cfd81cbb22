"""The model card of an adapter: what the Hub reads of it, what it says, and what it must not give away."""

import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, metadata_load
from made_run import HOSTILE, make_run
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from flextune.files import read_json, sha256, write_json
from flextune.report.card import card, plain, write_card

FROM_THE_HUB = {"hub": "org/base_model", "revision": "abc123"}


def made(path, *, model=None, inputs=None, variants=("base", "unmerged"), **keys):
    """A measured run with an adapter; `keys` are dotted keys of its recipe, with __ for each dot."""
    run = make_run(path, variants)
    recipe = yaml.safe_load(run.recipe.read_text())
    recipe |= {"model": model} if model else {}
    for key, value in keys.items():
        section = recipe
        *sections, last = key.split("__")
        for name in sections:
            section = section[name]
        section[last] = value
    run.recipe.write_text(yaml.safe_dump(recipe, sort_keys=False))
    record = read_json(run.provenance)
    record["inputs"] |= inputs or {}
    write_json(run.provenance, record)
    run.adapter.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["up_proj", "q"]}
    write_json(run.adapter / "adapter_config.json", config | {"base_model_name_or_path": "/secret/place"})
    return run


def python_of(text):
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return code


def test_the_header_says_what_was_measured(tmp_path):
    inputs = {
        "model": FROM_THE_HUB,
        "training set basics": {"hub": "org/data", "revision": "d", "rows": 3},
        "benchmark basics-python": {"hub": "org/tests", "revision": "t", "limit": 2},
    }
    run = made(tmp_path / "mine", inputs=inputs, variants=("base", "unmerged", "merged"))
    path = write_card(run.path)
    assert path == run.adapter / "README.md"
    header = metadata_load(path)
    del header["model-index"]
    assert header == {
        "base_model": "org/base_model",
        "datasets": ["org/data"],
        "language": ["code"],
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["base_model:adapter:org/base_model", "code", "flextune", "lora"],
    }
    data = ModelCard.load(path).data
    assert data.model_name == "mine"
    assert [result.metric_args["variant"] for result in data.eval_results] == ["unmerged", "merged"]
    for result in data.eval_results:
        scores = read_json(run.measurement("basics-python", result.metric_args["variant"], "greedy").scores)
        score = scores["pass@1"]
        assert (result.metric_type, result.metric_value) == ("pass@1", score["value"])
        assert (result.metric_args["low"], result.metric_args["high"]) == (score["low"], score["high"])
        assert (result.metric_args["problems"], result.metric_args["samples"]) == (2, scores["samples"])
        assert (result.dataset_type, result.dataset_config) == ("org/tests", "basics-python")
        assert (result.dataset_revision, result.dataset_args) == ("t", {"limit": 2})
        assert "greedy (2 problems, 95 % interval 9.5 % to 90.5 %)" in result.metric_name


def test_the_page_says_what_the_files_say(tmp_path):
    run = made(tmp_path, inputs={"model": FROM_THE_HUB, "training set basics": {"rows": 7}}, seed=5)
    text = write_card(run.path).read_text()
    (row,) = re.findall(r"^\| basics-python .*$", text, flags=re.MULTILINE)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["basics-python", "beside the weights", "greedy", "2"]
    assert cells[4:6] == ["0.0 % (0.0 to 65.8)", "50.0 % (9.5 to 90.5)"]
    assert cells[6].startswith("+50.0 (")
    assert cells[9] == "no difference beyond noise; no code: 2 of 2 before, 1 of 2 after"
    for line in (
        "LoRA of rank 4, α = 8, dropout 0.1, on q, up\\_proj",
        "- Data: basics, 7 rows",
        "- Seed: 5",
        "- Epochs: 3 (optimizer steps: 3)",
        "- Fourier penalty: λ = 0.02 (threshold = 0.5",
        "[org/base\\_model](https://huggingface.co/org/base\\_model) at revision abc123",
        "One training with one seed.",
        "in a sandbox only",
        "- python 3\n",
    ):
        assert line in text, line
    assert "not measured here" not in text


def test_a_run_without_a_base_model_or_a_penalty_says_so(tmp_path):
    run = made(tmp_path, variants=("unmerged",), penalty__strength=0.0)
    text = card(run.path)
    assert "| not measured here | 50.0 % (9.5 to 90.5) | – | – | – | not compared |" in text
    assert "- Fourier penalty: none\n" in text


def test_an_adapter_that_was_not_measured_has_a_card_that_says_so(tmp_path):
    run = made(tmp_path, variants=("base",), evaluation__benchmarks=["basics-python", "mine/own.jsonl"])
    path = write_card(run.path)
    assert "**This adapter has not been measured.**" in path.read_text()
    assert "model-index" not in metadata_load(path)
    text = card(made(tmp_path / "partly", evaluation__benchmarks=["basics-python", "mine/own.jsonl"]).path)
    assert "Not measured: own." in text


def test_values_of_a_scaled_adapter_are_not_those_of_its_weights(tmp_path):
    path = write_card(made(tmp_path, evaluation__scale=0.25).path)
    assert "**Measured with ΔW multiplied by 0.25:**" in path.read_text()
    assert "model-index" not in metadata_load(path)


def test_no_path_of_this_machine_is_given_away(tmp_path):
    run = made(
        tmp_path,
        model="/secret/place/the-model",
        inputs={
            "model": {"folder": "/secret/place/the-model", "sha256": {"model.safetensors": "c0ffee"}},
            "training set /secret/place/mine.jsonl": {"file": "/secret/place/mine.jsonl", "rows": 4},
            "benchmark /secret/place/basics-python.jsonl": {"file": "/secret/place/basics-python.jsonl"},
        },
        data="/secret/place",
        merge_first="/secret/place/first/adapter",
        training__dataset="/secret/place/mine.jsonl",
        training__validation="/secret/place/held-out.jsonl",
        adapter__start="/secret/place/begun",
        evaluation__benchmarks=["/secret/place/basics-python.jsonl"],
    )
    rows = read_json(run.comparison)
    write_json(run.comparison, [row | {"unrecorded": ["/secret/place does not say"]} for row in rows])
    text = card(run.path)
    assert "secret" not in text
    assert str(tmp_path) not in text
    for line in (
        "# the-model, tuned on mine\n",
        "- Base model: the-model, a local folder\n",
        "model.safetensors (sha256 c0ffee)",
        "the adapter of first had been merged first",
        "- Started from: the adapter of begun\n",
        "that of the least loss on held-out",
        "- Data: mine, 4 rows",
        "how it was judged is not recorded",
        "`base_model` is not named",
    ):
        assert line in text, line
    assert "base_model" not in ModelCard(text).data.to_dict()


def test_what_was_merged_below_is_no_model_of_the_hub(tmp_path):
    text = card(made(tmp_path, inputs={"model": FROM_THE_HUB}, merge_first="runs/first").path)
    assert ModelCard(text).data.base_model is None
    assert 'base = "BASE_MODEL"' in python_of(text)
    assert "the adapter of first had been merged first" in text


@pytest.mark.parametrize("what", ["\n---\nlicense: mit\n---\n", HOSTILE, "|\n\n# a\n```\n", "': [", "a\x1b[31m\x00"])
def test_hostile_texts_stay_texts(tmp_path, what):
    run = made(
        tmp_path,
        model=what,
        inputs={"model": {"hub": "org/m"}, f"training set {what}": {"rows": what}},
        about=what,
        training__dataset=what,
        training__template=what,
        adapter__peft={"key": what},
        merge_first=what,
        evaluation__decodings={"greedy": {"kind": what}},
    )
    path = write_card(run.path)
    found = metadata_load(path)
    assert set(found) == {"language", "library_name", "pipeline_tag", "tags", "model-index"}
    (result,) = ModelCard.load(path).data.eval_results
    assert result.metric_args["decoding"] == what
    body = ModelCard.load(path).text
    assert body.startswith("\n# ")
    assert "<script" not in body
    assert "<img" not in body
    assert "\x1b" not in body
    assert len(re.findall(r"^```", body, flags=re.MULTILINE)) == 2
    assert len(re.findall(r"^# ", body, flags=re.MULTILINE)) == 1
    assert [line for line in body.splitlines() if line.startswith("---")] == []
    (row,) = re.findall(r"^\| basics-python .*$", body, flags=re.MULTILINE)
    assert len(re.split(r"(?<!\\)\|", row)) == 12


def test_every_mark_of_markdown_is_escaped():
    assert plain("*a* [b](c) `d` & <e> $x$ ~f~") == r"\*a\* \[b\](c) \`d\` &amp; &lt;e&gt; \$x\$ \~f\~"


def test_written_again_or_after_a_further_start_it_is_the_same(tmp_path):
    run = made(tmp_path)
    first = write_card(run.path).read_bytes()
    record = read_json(run.provenance)
    record["starts"].append(record["starts"][0] | {"time": "another", "machine": {}})
    write_json(run.provenance, record)
    assert write_card(run.path).read_bytes() == first


def test_there_is_a_card_only_where_there_is_an_adapter(tmp_path):
    run = make_run(tmp_path, ("base",), training=False)
    assert write_card(run.path) is None
    assert not run.adapter.exists()


def test_the_verb_report_writes_the_card_unless_it_writes_elsewhere(tmp_path, call):
    run = made(tmp_path / "run")
    assert call("report", run.path, "--output", tmp_path / "there")[0] == 0
    assert not (run.adapter / "README.md").exists()
    assert call("report", run.path)[0] == 0
    assert (run.adapter / "README.md").read_text() == card(run.path)


@pytest.mark.parametrize("embedded", [False, True])
def test_the_example_loads_the_adapter_with_its_card(tiny_model, tmp_path, monkeypatch, capsys, embedded):
    inputs = {"model": {"package": "a-package"} if embedded else {"folder": "x"}}
    run = made(tmp_path, model="smollm2-135m", inputs=inputs)
    torch.manual_seed(1)
    lora = LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora)
    tuned.save_pretrained(run.adapter)
    assert (run.adapter / "README.md").exists()  # PEFT's template
    before = sha256(run.adapter)
    text = write_card(run.path).read_text()
    assert "More Information Needed" not in text
    assert sha256(run.adapter) == before
    monkeypatch.chdir(run.adapter)
    monkeypatch.setattr("flextune.models.find_model", lambda name: type("Found", (), {"path": tiny_model}))
    names = {}
    exec(python_of(text).replace('"BASE_MODEL"', repr(str(tiny_model))), names)
    assert ('find_model("smollm2-135m")' in python_of(text)) == embedded
    assert capsys.readouterr().out.startswith("def fibonacci(n):")
    assert isinstance(names["model"], PeftModel)
    for name, weight in tuned.state_dict().items():
        torch.testing.assert_close(names["model"].state_dict()[name], weight)

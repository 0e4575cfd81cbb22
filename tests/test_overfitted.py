"""One row, learned by heart, is answered exactly: through training, generation and the judge, with awkward tokenizers.

What the model is asked with has to be what it was taught with, and it has to stop where it was taught to stop.
"""

import json

import pytest
import torch
from tokens.test_boundary import byte_level, sentencepiece  # noqa: F401 (a fixture)
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from flextune import Recipe, run
from flextune.files import read_json, read_jsonl
from flextune.generation.backend import Request
from flextune.generation.settings import Decoding, Generation
from flextune.generation.transformers_backend import TransformersBackend
from flextune.models import find_model
from flextune.recipe import Evaluation
from flextune.tuning.settings import Adapter, Penalty, Training

PROMPT, COMPLETION = "def double(x):\n    ", "return x + x\n"


def make_model(tokenizer, folder, ends):
    """A small model whose configuration names `ends` as the end of text."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=ends,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measured(model, tmp_path):
    """The run that learns the row and is asked for it, without stop strings: only the end of text ends it."""
    own, asked = tmp_path / "own.jsonl", tmp_path / "double.jsonl"
    own.write_text(json.dumps({"prompt": PROMPT, "completion": COMPLETION}) + "\n")
    problem = {"task_id": "own/1", "language": "python", "prompt": PROMPT, "tests": "assert double(4) == 8\n"}
    asked.write_text(json.dumps(problem) + "\n")
    recipe = Recipe(
        model=str(model),
        dtype="float32",
        training=Training(dataset=str(own), epochs=60, learning_rate=1e-2, schedule="constant", overlap="keep"),
        adapter=Adapter(targets="all-linear", rank=8, dropout=0.0, peft={"modules_to_save": ["lm_head"]}),
        penalty=Penalty(strength=0),
        evaluation=Evaluation(benchmarks=[str(asked)], variants=["base", "unmerged", "merged"]),
        generation=Generation(max_new_tokens=24),
    )
    return run(recipe, tmp_path / "run")


@pytest.mark.parametrize("ends", [None, 5])
def test_a_tokenizer_of_llama_2s_kind(sentencepiece, tmp_path, ends):  # noqa: F811
    """It would put a space in front of the completion; and the model's own end of text is another, or none."""
    tokenizer = AutoTokenizer.from_pretrained(sentencepiece)
    done = measured(make_model(tokenizer, tmp_path / "model", ends), tmp_path)
    for variant in ("unmerged", "merged"):
        measurement = done.measurement("double.jsonl", variant, "greedy")
        (row,) = read_jsonl(measurement.completions)
        assert (row["completion"], row["finish_reason"]) == (COMPLETION, "stop")
        assert read_json(measurement.scores)["pass@1"]["value"] == 1.0
    (row,) = read_jsonl(done.measurement("double.jsonl", "base", "greedy").completions)
    assert row["completion"] != COMPLETION
    # beams end there too
    backend = TransformersBackend(find_model(str(tmp_path / "model")), dtype="float32")
    backend.use(done.adapter)
    for decoding in (Decoding(kind="beam", beams=3), Decoding(kind="sampling", temperature=0.01)):
        (text,) = backend.generate([Request(PROMPT)], decoding, 24)
        assert (text.text, text.finish_reason) == (COMPLETION, "stop")

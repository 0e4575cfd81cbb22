"""Fixtures: a model small enough to train in a second, excerpts of the data sets, and the whole data where it is."""

import itertools
import os
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"

# a model this small gains nothing from a second thread, and two that wait for each other lose much on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    import shutil

    import torch

    reasons = {
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "browser": None if shutil.which("chromium") else "no chromium",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """What fixtures of a module or a session keep, kept away from the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEXTUNE_CACHE", str(folder))
        yield folder


NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def own_cache(session_cache):
    """A cache for each test, so that none takes completions that another has written."""
    # of its own, so that a test's `monkeypatch.undo()` leaves it
    with pytest.MonkeyPatch.context() as patch:
        folder = session_cache / f"test-{next(NUMBERS)}"
        patch.setenv("FLEXTUNE_CACHE", str(folder))
        yield folder


@pytest.fixture
def data() -> Path:
    """A few rows of each data set."""
    return DATA


@pytest.fixture(scope="session")
def full_data() -> Path:
    """The whole data sets, with published completions and verdicts, in the folder that FLEXTUNE_DATA names."""
    folder = os.environ.get("FLEXTUNE_DATA")
    if not folder:
        pytest.skip("FLEXTUNE_DATA names no folder with the whole data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A Llama of two layers with random weights, and a tokenizer trained on the embedded problems."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from flextune.tasks import load_training_set

    folder = tmp_path_factory.mktemp("tiny-model")
    texts = [example.prompt + example.completion for example in load_training_set("basics").examples]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<end>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def call(capsys, monkeypatch):
    """The command line in this process, offline, on a wide terminal: its exit code, and what it printed."""
    from flextune import cli, progress

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for console in (progress.out, progress.console):
        monkeypatch.setattr(console, "_width", 200)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call

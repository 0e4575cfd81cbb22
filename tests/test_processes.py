"""The recipe decides how a training goes, and not what an earlier start has left in the environment."""

import os

import pytest

from flextune import processes
from flextune.errors import UsageError


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_")) or name in processes._START:
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_MIXED_PRECISION", "FP16"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_DOWNCAST_BF16", "true"),
        ("ACCELERATE_USE_DEEPSPEED", "true"),
        ("ACCELERATE_TORCH_DEVICE", "meta"),
    ],
)
def test_what_would_change_the_training_is_refused(environment, name, value):
    environment.setenv(name, value)
    with pytest.raises(
        UsageError, match=rf"{name} = '{value}' in the environment would change the training.*: unset it"
    ):
        processes.check_environment()


def test_what_a_launcher_sets_by_itself_is_harmless(environment):
    environment.setenv("ACCELERATE_MIXED_PRECISION", "no")
    environment.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    environment.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    processes.check_environment()


def test_one_process_is_alone_whatever_was_left(environment):
    left = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "gone", "OMPI_COMM_WORLD_SIZE": "4"}
    for name, value in left.items():
        environment.setenv(name, value)
    processes.check_environment()
    assert not left.keys() & os.environ.keys()
    environment.setenv("RANK", "3")  # without it, nobody would write or speak
    assert (processes.count(), processes.rank(), processes.leads()) == (1, 0, True)


def test_several_processes_keep_their_numbers(environment):
    environment.setenv("WORLD_SIZE", "2")
    environment.setenv("RANK", "1")
    processes.check_environment()
    assert (processes.count(), processes.rank(), processes.leads()) == (2, 1, False)


def test_a_worker_leaves_files_and_messages_to_its_parent(environment):
    environment.setattr(processes, "_worker", False)
    processes.become_worker()
    assert not processes.leads()


def test_what_may_change_the_last_digits_is_recorded_without_keys(environment):
    environment.setenv("OMP_NUM_THREADS", "3")
    environment.setenv("NVIDIA_TF32_OVERRIDE", "1")
    environment.setenv("VLLM_API_KEY", "secret")
    environment.setenv("HF_TOKEN", "secret")
    found = processes.environment()
    assert {"OMP_NUM_THREADS": "3", "NVIDIA_TF32_OVERRIDE": "1"}.items() <= found.items()
    assert "secret" not in found.values()

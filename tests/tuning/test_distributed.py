"""Two processes give the gradient of one."""

import os
import subprocess
import sys

import pytest
import torch
import two_processes


@pytest.fixture(scope="module")
def found(tiny_model, tmp_path_factory):
    """What two processes over gloo computed."""
    output = tmp_path_factory.mktemp("two") / "found.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [two_processes.__file__, str(tiny_model), str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output)


def difference(first, second):
    assert first.keys() == second.keys()
    first, second = (torch.cat([g[name].flatten() for name in sorted(g)]) for g in (first, second))
    return ((first - second).norm() / second.norm()).item()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_of_ddp(found, tiny_model, accumulation):
    gradient, row = found[f"ddp {accumulation}"]
    alone, alone_row = two_processes.by_trainer(tiny_model)
    assert difference(gradient, alone) < 1e-6
    for name in ("fourier_loss", "lora_A_norm", "lora_B_norm", "task_grad_norm"):
        assert row[name] == pytest.approx(alone_row[name], rel=1e-5)


@pytest.mark.parametrize("form", ["factors", "product", "permuted"])
def test_two_processes_of_fsdp2(found, tiny_model, form):
    gradient, figures = found[f"fsdp2 {form}"]
    alone, alone_figures = two_processes.by_hand(tiny_model, form)
    assert difference(gradient, alone) < 1e-6
    assert figures == pytest.approx(alone_figures, rel=1e-9)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_of_sophia(found, tiny_model, kind):
    where, figures = found[f"sophia {kind}"]
    alone, alone_figures = two_processes.sophia_steps(tiny_model)
    assert figures["labels"] == alone_figures["labels"]
    assert figures == pytest.approx(alone_figures, rel=1e-4)
    start = dict(two_processes.model_and_rows(tiny_model)[0].named_parameters())
    moved = {name: where[name] - start[name].detach() for name in where}
    expected = {name: alone[name] - start[name].detach() for name in alone}
    assert difference(moved, expected) < 1e-4
    assert max(step.abs().max() for step in moved.values()) > 0.1

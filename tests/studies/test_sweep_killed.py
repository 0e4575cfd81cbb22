"""A search that is killed goes on where it was."""

import json
import signal
import time

import pytest
from made_search import recipe, settings, start

from flextune import pipeline
from flextune.files import read_json
from flextune.recipe import parse_recipe
from flextune.report.sweep import read_sweep
from flextune.rundir import RunDirectory
from flextune.studies import sweep as module


@pytest.mark.slow
def test_killed_with_two_workers_it_goes_on_without_losing_or_repeating_a_trial(tiny_model, tmp_path):
    made, output = recipe(tiny_model, sweep={"space": {"adapter.rank": [2, 3, 4, 5]}}), tmp_path / "sweep"
    process = start(tmp_path, made, output, 2)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:  # until one trial is recorded and another is learning
        record = read_json(output / "sweep.json")["trials"] if (output / "sweep.json").exists() else []
        whole = [output / trial["run"] for trial in record if trial["state"] == "complete"]
        if whole and any(output.glob("trials/0*/checkpoints/*")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(1)
    before = {path: read_json(RunDirectory(path).provenance)["starts"] for path in whole}
    assert before
    code = start(tmp_path, made, output, 2)
    _, err = code.communicate(timeout=300)
    assert code.returncode == 0, err
    trials = read_sweep(output)["trials"]
    assert settings(trials) == settings([{"settings": chosen} for chosen in made.sweep.grid()])
    assert {trial["state"] for trial in trials} == {"complete"}
    assert len(list(output.glob("trials/0*"))) == 4
    for path, starts in before.items():  # what was recorded was not done again
        assert read_json(RunDirectory(path).provenance)["starts"] == starts
    losses = {trial["number"]: trial["value"] for trial in trials}
    # those that were going on ended as undisturbed ones do
    left = [n for n in losses if len(read_json(RunDirectory(output / f"trials/{n:04d}").provenance)["starts"]) > 1]
    assert left
    for number in left:
        again = tmp_path / f"again-{number}"
        chosen = next(trial["settings"] for trial in trials if trial["number"] == number)
        whole = parse_recipe(
            json.loads(json.dumps(module._plain(module.change(made, {**chosen, "sweep": None}, "t")))), "t"
        )
        pipeline.run(whole, again)
        assert module.objective(again, whole, made.sweep) == pytest.approx(losses[number], rel=1e-6)

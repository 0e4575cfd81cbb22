import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from alive import alive

from flextune.errors import FlextuneError
from flextune.studies import process
from flextune.studies.process import StoppedError, alone

LONG = 120
"""Seconds that no test waits for where the code is right."""


def wait_until(condition):
    """Return when the condition holds, or after a time in which it holds where the code is right."""
    deadline = time.monotonic() + LONG
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_trial_has_a_process_of_its_own():
    assert alone(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        alone(int, "x")
    with pytest.raises(FlextuneError, match="was killed"):
        alone(os._exit, 9)


def work_for_long(finished):
    time.sleep(LONG)
    Path(finished).touch()


def test_a_trial_can_be_stopped(tmp_path):
    finished = tmp_path / "finished"
    looks = iter([False, True])
    with pytest.raises(StoppedError):
        alone(work_for_long, str(finished), stop=lambda: next(looks))
    assert not finished.exists()
    assert alone(os.path.join, "a", "b", stop=lambda: False) == "a/b"


def work_in_a_folder(told):
    with tempfile.TemporaryDirectory(dir=Path(told).parent) as folder:
        Path(told).write_text(folder)
        time.sleep(LONG)


def test_a_trial_that_is_ended_tidies_up(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "GRACE", LONG)
    told = tmp_path / "folder"
    with pytest.raises(StoppedError):
        alone(work_in_a_folder, str(told), stop=told.exists)
    assert list(tmp_path.iterdir()) == [told]


def ignore_the_request_to_end(told, finished):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(told).touch()
    work_for_long(finished)


def test_a_trial_that_does_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.5)
    told, finished = tmp_path / "told", tmp_path / "finished"
    with pytest.raises(StoppedError):
        alone(ignore_the_request_to_end, str(told), str(finished), stop=told.exists)
    assert not finished.exists()


def test_an_error_says_where_it_happened():
    with pytest.raises(ValueError, match="invalid literal") as raised:
        alone(int, "x")
    assert "_call" in raised.value.__notes__[0]


class StrangeError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one}{two}")


def fail():
    raise StrangeError("a", "b")


def test_an_error_that_cannot_travel_is_told_by_its_words():
    with pytest.raises(FlextuneError, match="StrangeError: ab"):
        alone(fail)


def test_a_killed_study_takes_its_trial_along(tmp_path):
    told = tmp_path / "pid"
    code = f"""
import os, time
from pathlib import Path
from flextune.studies.process import alone
def trial():
    Path({str(told)!r}).write_text(str(os.getpid()))
    time.sleep({10 * LONG})
if __name__ == "__main__":
    alone(trial)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    study = subprocess.Popen([sys.executable, script])
    wait_until(lambda: told.exists() and told.read_text())
    trial = int(told.read_text())
    study.send_signal(signal.SIGKILL)
    study.wait()
    wait_until(lambda: not alive(trial))
    assert not alive(trial)

"""A cluster of two machines, played by two Ray nodes on this one; one of them is killed half-way."""

import contextlib
import json
import os
import signal
import time

import pytest

from flextune.errors import FlextuneError
from flextune.execution import Execution, Program, judge_completions
from flextune.execution import cluster as cluster_module
from flextune.execution.cluster import judge_on_ray
from flextune.files import read_json, read_jsonl
from flextune.tasks import Problem

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'flextune[ray]')")

PROBLEMS = [Problem(f"t/{n}", "python", "def f(x):\n", "assert f(1) == 2\n") for n in range(60)]


@pytest.fixture(scope="module")
def nodes():
    """A head without processors, and two nodes with one each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    added = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, added
    ray.shutdown()
    cluster.shutdown()


def completions(path, seconds=0.0):
    """Two samples a problem, the first right; each takes its time."""
    body = f"    import time; time.sleep({seconds})\n    return x + {{}}  # {{}}\n"
    rows = [
        {"task_id": problem.task_id, "sample": s, "completion": body.format(1 - s, problem.task_id)}
        for problem in PROBLEMS
        for s in (0, 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, [(row["task_id"], row["sample"]) for row in rows]


@pytest.mark.slow
def test_a_lost_machine_loses_and_doubles_no_verdict(nodes, tmp_path, monkeypatch):
    cluster, added = nodes
    path, expected = completions(tmp_path / "completions.jsonl", seconds=0.1)
    monkeypatch.setattr(cluster_module, "GROUP", 10)
    log = tmp_path / "log"
    judge_group = cluster_module.judge_group

    def logged(*arguments):
        place = f"{ray.get_runtime_context().get_node_id()} {os.getpid()}"
        with log.open("a") as file:
            file.write(f"begun {place}\n")
        found = judge_group(*arguments)
        with log.open("a") as file:
            file.write(f"done {place}\n")
        return found

    def groups(event, node=""):
        return [line.split()[-1] for line in log.read_text().splitlines() if line.startswith(f"{event} {node}")]

    def lose(node):
        """Kill a node while it judges a group, which it can no longer finish."""
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline, "the node judges nothing"
            time.sleep(0.01)
            begun = groups("begun", node.node_id)
            if len(begun) > len(groups("done", node.node_id)):
                worker = int(begun[-1])
                os.kill(worker, signal.SIGSTOP)
                if len(begun) > len(groups("done", node.node_id)):
                    break
                os.kill(worker, signal.SIGCONT)
        cluster.remove_node(node, allow_graceful=False)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    monkeypatch.setattr(cluster_module, "judge_group", logged)
    appended = []
    write = judge_on_ray

    def watched(programs, **settings):
        for count, found in enumerate(write(programs, **settings)):
            if count == 0:
                lose(added[1])
            appended.append(found[0])
            yield found

    monkeypatch.setattr("flextune.execution.stage.judge_on_ray", watched)
    judge_completions(path, PROBLEMS, tmp_path, Execution(ray=cluster.address))
    rows = list(read_jsonl(tmp_path / "verdicts.jsonl"))
    assert [(row["task_id"], row["sample"]) for row in rows] == expected
    assert sorted(appended) == list(range(len(expected)))
    assert [row["passed"] for row in rows] == [s == 0 for _, s in expected]
    assert read_json(tmp_path / "execution.json")["toolchains"]["python"].startswith("Python 3")
    assert len(groups("begun")) == 12 + 1  # only what the lost machine was judging is judged again


@pytest.mark.slow
def test_a_machine_that_differs_is_an_error(nodes, tmp_path):
    cluster, _ = nodes
    program = Program("t/0", 0, "python", "def f(x):\n", "    return x + 1\n", "assert f(1) == 2\n")
    with pytest.raises(FlextuneError, match=r"would judge differently: python is 'Python 3.*there, 'Python 2' here"):
        list(judge_on_ray([program], Execution(ray=cluster.address), {"sandbox": "bubblewrap", "python": "Python 2"}))


@pytest.mark.slow
def test_no_cluster_is_an_error():
    ray.shutdown()
    with pytest.raises(FlextuneError, match=r"execution.ray = '127.0.0.1:1': there is no cluster"):
        list(judge_on_ray([], Execution(ray="127.0.0.1:1"), {}))

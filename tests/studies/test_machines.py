"""Several machines on one search repeat nothing."""

import signal
import socket
import threading
import time

import optuna
import pytest
from made_search import recipe, settings, start

from flextune.report.sweep import read_sweep
from flextune.studies.sweep import run_sweep


@pytest.mark.slow
def test_two_machines_share_a_search(tiny_model, tmp_path):
    """Two processes with folders and caches of their own, and Optuna's proxy server between them."""
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "shared.journal"))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = threading.Thread(
        target=optuna.storages.run_grpc_proxy_server,
        args=(optuna.storages.JournalStorage(journal),),
        kwargs={"host": "localhost", "port": port},
        daemon=True,
    )
    server.start()
    made = recipe(tiny_model, sweep={"space": {"adapter.rank": [2, 3, 4]}})
    machines = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        environment = {"FLEXTUNE_CACHE": str(tmp_path / name / "cache")}
        machines.append(start(tmp_path, made, tmp_path / name / "sweep", 1, f"grpc://localhost:{port}", **environment))
        deadline = time.monotonic() + 120
        while not any((tmp_path / name / "sweep/trials").glob("0*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        if name == "one":  # it waits for the other, however slow that is to start
            machines[0].send_signal(signal.SIGSTOP)
    machines[0].send_signal(signal.SIGCONT)
    for machine in machines:
        _, err = machine.communicate(timeout=300)
        assert machine.returncode == 0, err
    runs = [sorted(path.name for path in (tmp_path / name / "sweep/trials").glob("0*")) for name in ("one", "two")]
    assert all(runs)  # both worked
    assert sorted(runs[0] + runs[1]) == [f"{number:04d}" for number in range(3)]
    trials = read_sweep(tmp_path / "one/sweep")["trials"]
    assert len(set(settings(trials))) == 3


@pytest.mark.slow
def test_the_machines_of_a_ray_cluster_do_the_trials(tiny_model, tmp_path):
    ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'flextune[ray]')")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        made = recipe(tiny_model, sweep={"space": {"adapter.rank": [2, 4]}})
        run_sweep(made, tmp_path, workers=2, ray=cluster.address)
    finally:
        ray.shutdown()
        cluster.shutdown()
    trials = read_sweep(tmp_path)["trials"]
    assert [(trial["state"], trial["settings"]["adapter.rank"]) for trial in trials] == [
        ("complete", 2),
        ("complete", 4),
    ]

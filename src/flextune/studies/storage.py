"""Where a sweep's study is kept: in its folder, or where several machines reach it."""

import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from flextune.errors import UsageError
from flextune.files import cut_torn_line

JOURNAL = "sweep.journal"


class _MendingLock(JournalFileSymlinkLock):
    """Optuna's lock: who gets it writes behind whole lines, also where a disk was full in the middle of one."""

    def acquire(self) -> bool:
        held = super().acquire()
        cut_torn_line(Path(self._lock_target_file))
        return held


def storage_of(storage: str | None, output: Path) -> Any:
    """A journal in the folder, Optuna's proxy server by `grpc://host:port`, or an address of a database as it is."""
    if storage is None:
        journal = str(output / JOURNAL)
        return optuna.storages.JournalStorage(JournalFileBackend(journal, _MendingLock(journal)))
    if storage.startswith("grpc://"):
        host, _, port = storage.removeprefix("grpc://").partition(":")
        if not port.isdecimal():
            raise UsageError(f"storage = {storage!r}: expected grpc://host:port")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.GrpcStorageProxy(host=host, port=int(port))
    return storage

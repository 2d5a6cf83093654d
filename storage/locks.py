"""Locks of one collection: who may run a verb, and who may commit.

Held through the kernel (`flock`), so that a lock cannot outlive its process: kill -9 frees it.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from storage.errors import LakeBusy


@contextmanager
def lock(collection: Path, name: Literal["ingest", "commit"], *, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock of the collection; after `wait` seconds in vain raise `LakeBusy` naming the holder.

    `ingest` is the job lease (one run of the verb at a time); `commit` is held for one window only.
    """
    path = collection / "_locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = path.with_suffix(".owner.json")
    held = FileLock(path, timeout=wait)
    try:
        held.acquire()
    except Timeout:
        raise LakeBusy(path, _describe(owner)) from None
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        owner.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now}))
        yield
    finally:
        held.release()


def _describe(owner: Path) -> str:
    try:
        who = json.loads(owner.read_text())
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError):
        return "a process that has only just started"

"""Leases of one collection: who may run a verb, and who may commit.

On a local file system a lease is held through the kernel (`flock`), so that it cannot outlive its
process: kill -9 frees it. In an object store it is an object that its owner renews, and that others
take over once it was not. Either way a holder is asked again right before each commit (`still_held`):
one that slept through the loss of its lease, or whose lease was removed by hand, cannot commit.
"""

import json
import logging
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from filelock import FileLock, Timeout

from storage import leases, places
from storage.errors import LakeBusy
from storage.places import Place
from storage.remote import Remote

logger = logging.getLogger(__name__)

Name = Literal["ingest", "maintain", "upgrade", "commit"]


class Lease(Protocol):
    """A lease that this process holds, or believes to hold."""

    def still_held(self) -> bool:
        """Whether it is ours now; asks the store."""
        ...


@contextmanager
def lock(collection: Place, name: Name, *, wait: float = 0.0) -> Iterator[Lease]:
    """Hold a lease of the collection; after `wait` seconds in vain raise `LakeBusy` naming the holder.

    `ingest` (which also retry and import take), `maintain` and `upgrade` are job leases; `commit` is held
    for one window only.
    """
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "nonce": uuid.uuid4().hex,
    }
    place = collection / "_locks" / f"{name}.lock"
    if isinstance(place, Remote):
        with leases.hold(place, owner, wait=wait) as held:
            yield held
        return
    with _local(place, owner, wait) as held:
        yield held


@contextmanager
def _local(path: Path, owner: dict[str, Any], wait: float) -> Iterator[Lease]:
    places.make_directory(path.parent)
    sign = path.with_suffix(".owner.json")
    held = FileLock(path, timeout=wait)
    try:
        held.acquire()
    except Timeout:
        raise LakeBusy(path, _describe(sign)) from None
    try:
        if _nonce(sign) is not None:  # who lets go takes the sign away
            logger.warning(
                "%s was left behind by %s, which is gone; it was taken over", path, _describe(sign)
            )
        sign.write_text(json.dumps(owner))
        yield _LocalLease(sign, owner["nonce"])
    finally:
        if _nonce(sign) == owner["nonce"]:
            sign.unlink()
        held.release()


class _LocalLease:
    def __init__(self, sign: Path, nonce: str) -> None:
        self._sign, self._nonce = sign, nonce

    def still_held(self) -> bool:
        return _nonce(self._sign) == self._nonce


def _nonce(sign: Path) -> str | None:
    try:
        found = json.loads(sign.read_text())
    except (OSError, ValueError):
        return None
    return found.get("nonce") if isinstance(found, dict) else None


def _describe(sign: Path) -> str:
    try:
        who = json.loads(sign.read_text())
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has only just started"

"""Leases in an object store: objects that their owner renews, and that others take over once it was not.

What the lake locks with them, and how it does on a local file system, is for `storage.locks`.
"""

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any

from storage import remote
from storage.errors import LakeBusy, StorageError
from storage.remote import Remote

logger = logging.getLogger(__name__)


class Lease:
    """A lock in an object store; made by `hold`, renewed by a thread of its own until released."""

    def __init__(self, place: Remote, owner: dict[str, Any], seconds: float) -> None:
        self._place, self._owner, self._seconds = place, owner, seconds
        self._nonce = uuid.uuid4().hex
        self._renewals = 0
        self._etag: str | None = None
        self._lock = threading.Lock()
        self._released = threading.Event()

    def still_held(self) -> bool:
        """Renew the lease now; whether it is still this one's.

        If so, nobody takes it within `seconds` of the beginning of this call: what must happen under
        the lease has that long. Raises `StorageError` if the store cannot tell.
        """
        with self._lock:
            return self._etag is not None and self._written(self._etag)

    def _written(self, etag: str | None) -> bool:
        """Write the lease over the object of that ETag (None: over nothing); whether that was granted.

        The content differs each time, and so does the ETag; it is the same when a call that raised is
        made again, so that one which did reach the store is known as one's own.
        """
        record = {**self._owner, "nonce": self._nonce, "seconds": self._seconds, "renewals": self._renewals}
        self._etag = remote.put_if(self._place, json.dumps(record).encode(), etag)
        self._renewals += 1
        return self._etag is not None

    def _keep(self) -> None:
        while not self._released.wait(self._seconds / 3):
            with contextlib.suppress(StorageError):  # tried again in a while; who commits asks for himself
                if not self.still_held():
                    return

    def _release(self) -> None:
        """Mark the lease as free, unless it is another's by now.

        Not by deleting it: S3 deletes whatever is there, also what another put there a moment ago.
        """
        self._released.set()
        with self._lock, contextlib.suppress(StorageError):  # it would then run out by itself
            if self._etag is not None:
                remote.put_if(self._place, json.dumps({"released_by": self._nonce}).encode(), self._etag)
            self._etag = None


@contextmanager
def hold(place: Remote, owner: dict[str, Any], *, wait: float, seconds: float = 60.0) -> Iterator[Lease]:
    """Hold the lease at `place`; after `wait` seconds in vain raise `LakeBusy` naming the holder.

    `owner` says `host`, `pid` and `since`. The lease is renewed every third of `seconds`; that of a
    process that is gone can be taken once it was not renewed for `seconds`, if the one who waits saw
    that himself, or for twice as long by the store's own times. No program can be stopped from going on
    after it lost its lease: ask `still_held` right before what must not happen twice, and make that
    itself fail if another did it (as `Remote.create` does).
    """
    lease = _acquired(place, owner, wait, seconds)
    renewer = threading.Thread(target=lease._keep, name=f"lease {place}", daemon=True)
    renewer.start()
    try:
        yield lease
    finally:
        lease._release()
        renewer.join()


def _acquired(place: Remote, owner: dict[str, Any], wait: float, seconds: float) -> Lease:
    clock = place.parent / "clock"
    _require_conditions(clock)
    lease = Lease(place, owner, seconds)
    deadline = time.monotonic() + wait
    seen, seen_at, idle = None, 0.0, 0.0
    while True:
        found = remote.get(place)
        now = time.monotonic()
        record = _record(found)
        limit = float(record.get("seconds", seconds))
        # Never by this host's time and one that another host wrote: the two clocks may differ by hours.
        # Who sees the same ETag for `limit` on one monotonic clock knows that no renewal came meanwhile.
        # Who has not been here that long compares two times that the store gave: of the lease, and of an
        # object written now; at twice the limit the clocks within the store may differ by `limit`.
        if found and found.etag != seen:
            first = seen is None and "released_by" not in record
            idle = (_time_of(clock) - found.modified).total_seconds() if first else 0.0
            seen, seen_at = found.etag, now
        gone = now - seen_at >= limit or idle >= 2 * limit
        if gone or "released_by" in record:
            if not lease._written(found.etag if found else None):  # of several exactly one is granted it
                continue
            if gone and "released_by" not in record:
                logger.warning("%s was left behind by %s; it was taken over", place, _holder(record))
            return lease
        if now >= deadline:
            raise LakeBusy(place, f"{_holder(record)} (if that died, its lease ends in {2 * limit:.0f} s)")
        time.sleep(min(1.0, limit / 10, max(deadline - now, 0.0)))


def _record(found: remote.Found | None) -> dict[str, Any]:
    try:
        record = json.loads(found.data) if found else {"released_by": None}
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _holder(record: dict[str, Any]) -> str:
    who, host, since = (record.get(name, "?") for name in ("pid", "host", "since"))
    return f"process {who} on {host} since {since}"


@cache
def _require_conditions(probe: Remote) -> None:
    """Raise `StorageError` if the store, as some do, takes a conditional put and ignores the condition.

    Nobody would notice before one writer has overwritten the commits of another.
    """
    probe.replace(b"")
    for etag in (None, '"of nothing"'):
        if remote.put_if(probe, uuid.uuid4().bytes, etag) is not None:
            raise StorageError(
                f"{probe}: this store ignores If-None-Match or If-Match, so that writers would overwrite "
                "each other; a lake needs one that honours them, as Amazon S3 does"
            )


def _time_of(clock: Remote) -> datetime:
    """What time it is for the store."""
    clock.replace(b"")
    return clock.modified()

"""Which release readers get: moving `live` is one commit, and so one step for everything that hangs on it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from storage.commits import Commit, Release, succeeding
from storage.drafting import drafting
from storage.errors import NoSuchRelease
from storage.places import Place
from storage.snapshot import Snapshot

Verb = Literal["promote", "rollback"]


@dataclass(frozen=True)
class Switched:
    """The release that is live now, the one that was before, and the version that moved it."""

    live: int
    previous: int
    version: int


def find(snapshot: Snapshot, number: int) -> Release:
    """A release that can be read. Raises `NoSuchRelease` naming those that can."""
    head = snapshot.head
    releases = head.releases if head else ()
    found = next((r for r in releases if r.release == number), None)
    if found is not None and not found.retired:
        return found
    there = ", ".join(str(r.release) for r in releases if not r.retired) or "none"
    what = "was retired: its vectors are gone" if found else "does not exist"
    raise NoSuchRelease(
        f"release {number} of collection {snapshot.root.name!r} {what}; there are: {there} "
        f"(see: evervec history {snapshot.root.name})"
    )


def earlier_of(head: Commit) -> list[Release]:
    """Releases that were live before the present one and are kept, the latest first."""
    kept = [r for r in head.releases if r.release != head.live_release and r.version and not r.retired]
    return sorted(kept, key=lambda r: r.version or 0, reverse=True)


def previous(snapshot: Snapshot) -> Release:
    """The release that was live before the present one. Raises `NoSuchRelease` if there is none."""
    head = snapshot.head
    if head is not None and (earlier := earlier_of(head)):
        return earlier[0]
    raise NoSuchRelease(
        f"collection {snapshot.root.name!r} has no earlier release to go back to "
        f"(see: evervec history {snapshot.root.name})"
    )


def missing(snapshot: Snapshot, release: Release) -> pa.Array:
    """Ids of the live items that have no vector in the space of a release."""
    held = [t["item_id"] for _, _, t in snapshot.read("vectors", ["item_id"], release.space_id)]
    items = [t["item_id"] for _, _, t in snapshot.read("items", ["item_id"])]
    have = pa.chunked_array([c for column in held for c in column.chunks], pa.string())
    all_items = pa.chunked_array([c for column in items for c in column.chunks], pa.string())
    return all_items.filter(pc.invert(pc.is_in(all_items, value_set=have.combine_chunks()))).combine_chunks()


def make_live(root: Place, number: int, verb: Verb, run_id: str) -> Switched:
    """Make a release live; one that is so already stays so, without a commit.

    Raises `NoSuchRelease`, also for one that is still being built.
    """
    started = datetime.now(UTC)
    with drafting(root) as draft:
        release = find(draft.before, number)
        head = draft.before.head
        if head is None or head.live_release == number:
            return Switched(number, number, draft.before.version)
        if release.space_id not in head.indexes:
            raise NoSuchRelease(
                f"release {number} of collection {root.name!r} is not built yet: {release.space_id} has no "
                f"index, and searches would not find its vectors. Finish it: evervec upgrade {root.name}"
            )
        record = succeeding(head, verb=verb, run_id=run_id, started_at=started)
        moved = release.model_copy(update={"version": record.number})
        releases = tuple(moved if r.release == number else r for r in head.releases)
        after = draft.publish(record.model_copy(update={"releases": releases, "live_release": number}))
        return Switched(number, head.live_release, after.version)

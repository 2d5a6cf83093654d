"""The steps of maintenance, as the flow calls them."""

import uuid
from dataclasses import dataclass

from storage import maintenance, places
from storage.locks import lock
from storage.maintenance import Maintained, Maintenance
from storage.places import Place
from storage.retention import Retention, own_tables
from storage.snapshot import Snapshot
from tasks.errors import NothingThere, Refused
from tasks.project import Project


@dataclass(frozen=True)
class Size:
    """What a collection takes on disk, its indexes included."""

    files: int
    bytes: int


def not_empty(project: Project) -> list[str]:
    """Collections that hold anything to maintain."""
    return [name for name in project.collections if Snapshot.open(project.lake / name).head is not None]


def size(project: Project, collection: str) -> Size:
    """Files and bytes of a collection."""
    snapshot = _opened(project, collection)
    folders: list[Place] = [snapshot.root]
    folders += [project.lake / "index" / f"{t}.lance" for t in own_tables(project.lake, snapshot)]
    sizes = [entry.bytes for folder in folders for entry in places.walk(folder)]
    return Size(len(sizes), sum(sizes))


def look(project: Project, collection: str, *, rebuild: bool, purge: bool) -> Maintenance:
    """What maintenance, or a purge, would do now; changes nothing."""
    snapshot = _opened(project, collection)
    if purge:
        return maintenance.plan_purge(project.lake, snapshot)
    return maintenance.plan(project.lake, snapshot, _retention(project, collection), rebuild=rebuild)


def carry_out(project: Project, collection: str, *, rebuild: bool, wait: float) -> Maintained:
    """Compact, index anew, let go what is not retained, and sweep. Raises `LakeBusy`."""
    root, keep = project.lake / collection, _retention(project, collection)
    _opened(project, collection)
    with lock(root, "maintain", wait=wait) as lease:
        snapshot = Snapshot.open(root, strict=True)
        work = maintenance.plan(project.lake, snapshot, keep, rebuild=rebuild)
        return maintenance.carry_out(project.lake, snapshot, work, keep, _run_id(), lease)


def purge(project: Project, collection: str, *, yes: bool, wait: float) -> Maintained:
    """Make deletion real; see `storage.maintenance.purge`. Raises `Refused` unless `yes`, and `LakeBusy`."""
    root = project.lake / collection
    snapshot = _opened(project, collection)
    if not yes:
        raise Refused(
            f"a purge rewrites collection {collection!r} and removes everything that versions before "
            f"{snapshot.version + 1} alone hold: they cannot be read or gone back to any more. If that is "
            "meant, run again with --yes"
        )
    with lock(root, "ingest", wait=wait) as ingest, lock(root, "maintain", wait=wait) as lease:
        done = maintenance.purge(project.lake, Snapshot.open(root, strict=True), _run_id(), ingest, lease)
    project.page(collection).unlink(missing_ok=True)  # it shows what was found before
    return done


def _opened(project: Project, collection: str) -> Snapshot:
    project.collection(collection)
    snapshot = Snapshot.open(project.lake / collection)
    if snapshot.head is None:
        raise NothingThere(f"collection {collection!r} is empty; fill it: evervec ingest {collection}")
    return snapshot


def _retention(project: Project, collection: str) -> Retention:
    retain = project.collection(collection).retain
    return Retention(days=retain.days, releases=retain.releases)


def _run_id() -> str:
    return uuid.uuid4().hex[:12]

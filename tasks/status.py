"""How a collection stands, from its commit log and file sizes alone."""

from dataclasses import dataclass
from typing import Any

from storage import places
from storage.commits import Commit
from storage.places import Place
from storage.snapshot import Snapshot
from tasks.project import Project


@dataclass(frozen=True)
class Status:
    """One collection at its head; `version` 0 says that nothing was ingested yet."""

    collection: str
    version: int
    items: int
    chunks: int
    rejects: int
    spaces: tuple[dict[str, Any], ...]
    live: dict[str, Any] | None
    index: dict[str, Any] | None
    bytes: int


def status(project: Project, name: str, at: int | None = None) -> Status:
    """The state of a collection, at version `at` if given. Raises `NothingThere`, `VersionGone`."""
    project.collection(name)
    snapshot = Snapshot.open(project.lake / name, at)
    head = snapshot.head
    if head is None:
        return Status(name, 0, 0, 0, 0, (), None, None, 0)
    spaces = tuple({"space_id": s, **o.model_dump()} for s, o in head.spaces.items())
    live = head.live.model_dump(include={"release", "space_id", "strategy", "cascade"}) | {
        "version": head.number,
        "coverage": _coverage(head),
    }
    index = {"rows": head.index.rows, "version": head.index.version, "lag_versions": 0}
    tables = [f"{index.table}.lance" for index in head.indexes.values()]
    size = _size(project.lake / name) + sum(_size(project.lake / "index" / table) for table in tables)
    chunks = head.spaces[head.live.space_id].rows
    return Status(name, head.number, head.total_items, chunks, head.total_rejects, spaces, live, index, size)


def _coverage(head: Commit) -> float:
    """The share of rows that have a vector by the encoder that queries are asked with."""
    live = head.live
    asked_in = live if live.through is None else head.release(live.through)
    rows = head.spaces[live.space_id].rows
    return round(head.spaces[asked_in.space_id].encoded / rows, 6) if rows else 1.0


def rejects(project: Project, name: str) -> list[dict[str, Any]]:
    """Standing rejects of a collection, newest first."""
    project.collection(name)
    snapshot = Snapshot.open(project.lake / name)
    columns = ["item_id", "uri", "stage", "reason", "error_type", "run_id", "rejected_at"]
    rows = [row for _, _, table in snapshot.read("rejects", columns) for row in table.to_pylist()]
    return sorted(rows, key=lambda row: row["rejected_at"], reverse=True)


def _size(folder: Place) -> int:
    """Bytes below a folder, without what a run that is under way puts aside."""
    working = ("_spool/", "_locks/", "_kept/", "_asked/")
    return sum(entry.bytes for entry in places.walk(folder) if not entry.path.startswith(working))

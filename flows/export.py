"""export: a version of a collection as Parquet, Delta or Lance, for other tools and other lakes."""

import time
from dataclasses import dataclass
from pathlib import Path

from storage import export as exports
from storage import releases
from storage.export import Format
from storage.snapshot import Snapshot
from tasks.errors import NothingThere, Refused, SourceUnusable
from tasks.project import Project


@dataclass(frozen=True)
class ExportRequest:
    """What was asked for, beside the project: the head, or version `as_of`."""

    collection: str
    to: Format
    path: Path
    as_of: int | None = None
    yes: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class ExportReport:
    """What was written. `rows` are chunks, `linked` data files of the lake that were not copied."""

    rows: int
    items: int
    version: int
    release: int
    space_id: str
    to: str
    path: str
    linked: int
    seconds: float
    notes: tuple[str, ...] = ()
    dry_run: bool = False


def export(project: Project, request: ExportRequest) -> ExportReport:
    """Write the chunks of the live release, with their items, to `request.path`.

    Raises `Refused` if something is there (with `yes` an earlier export is replaced, and nothing else),
    `NothingThere`, `VersionGone`, and `Damaged` before anything is written if a file of the lake is.
    """
    started = time.monotonic()
    name = request.collection
    project.collection(name)
    snapshot = Snapshot.open(project.lake / name, request.as_of)
    head = snapshot.head
    if head is None:
        raise NothingThere(f"collection {name!r} is empty; fill it: evervec ingest {name}")
    path = request.path.expanduser().resolve()
    _require_fit(project, request, path)
    project.verified().require(snapshot.root, snapshot.all_files())
    done = exports.contents(snapshot)
    if not request.dry_run:
        done = exports.export(project.lake, snapshot, request.to, path, overwrite=request.yes)
    lacking = len(releases.missing(snapshot, head.live)) if len(head.spaces) > 1 else 0
    note = f"{lacking:,} items have no vector in {head.live.space_id}: they come without chunks"
    return ExportReport(
        rows=done.rows,
        items=done.items,
        version=head.number,
        release=head.live_release,
        space_id=head.live.space_id,
        to=request.to,
        path=str(path),
        linked=done.linked,
        seconds=round(time.monotonic() - started, 3),
        notes=(note,) if lacking else (),
        dry_run=request.dry_run,
    )


def _require_fit(project: Project, request: ExportRequest, path: Path) -> None:
    """Raise `SourceUnusable` or `Refused` unless an export may be written to `path`."""
    if request.to == "lance" and path.suffix != ".lance":
        raise SourceUnusable(f"{request.path}: a Lance dataset is a folder whose name ends in .lance")
    lake = project.lake.resolve() if isinstance(project.lake, Path) else None
    if lake is not None and (path.is_relative_to(lake) or lake.is_relative_to(path)):
        raise SourceUnusable(f"{request.path} is in the lake, or the lake in it; export to another folder")
    if path.exists() and not path.is_dir():
        raise Refused(f"{request.path} is a file; give the name of a folder")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path.is_dir() and exports.is_export(path)):
        raise Refused(
            f"{request.path} exists and holds something that is no export; give another PATH, or empty it"
        )
    if strange := exports.not_ours(path):
        raise Refused(f"{strange} is no part of an export; move it away, or give another PATH")
    if not request.yes:
        raise Refused(f"{request.path} holds an earlier export; replace it with --yes, or give another PATH")

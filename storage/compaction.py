"""Compaction: small files and files with many masked rows become few whole ones. Rows stay as they are.

Prepared without any lock, beside readers and an ingest; at the commit, rows that others masked
meanwhile are masked in the new file too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa

from storage import arrays, parquet
from storage.commits import succeeding
from storage.drafting import discard, drafting
from storage.fold import LiveFile
from storage.locks import Lease
from storage.parquet import ROW_GROUP, DataFile
from storage.schemas import DELETES, Kind
from storage.snapshot import Snapshot

TARGET_ROWS = 200_000
"""Rows of a file that compaction makes, at most: 300 MB of 384-d vectors."""

SMALL_ROWS = TARGET_ROWS // 2
MASKED_SHARE = 0.1
"""Files with fewer rows are joined with others; files with a larger share of masked rows are rewritten."""

_KINDS: tuple[Kind, ...] = ("items", "vectors", "rejects")


@dataclass(frozen=True)
class Group:
    """Files of one kind, space and set of attributes that become one; `rows` are the live ones."""

    kind: Kind
    space_id: str
    files: tuple[DataFile, ...]
    rows: int


@dataclass
class _Rewritten:
    """A new file, and where in it the rows of the old ones are (by old path: positions, first new row)."""

    file: DataFile | None = None
    kept: dict[str, tuple[np.ndarray, int]] = field(default_factory=dict)


def groups(snapshot: Snapshot, *, every_mask: bool = False) -> list[Group]:
    """What is worth rewriting; with `every_mask` every file that has any masked row."""
    found: list[Group] = []
    for kind in _KINDS:
        spaces = snapshot.spaces() if kind == "vectors" else [""]
        for space in spaces:
            by_columns: dict[str, list[LiveFile]] = {}
            for live in snapshot.live_files(kind, space):
                by_columns.setdefault(live.attributes, []).append(live)
            for files in by_columns.values():
                found += _groups(snapshot, kind, space, [f.file for f in files], every_mask=every_mask)
    return found


def _groups(
    snapshot: Snapshot, kind: Kind, space: str, files: Sequence[DataFile], *, every_mask: bool
) -> Iterator[Group]:
    group: list[DataFile] = []
    rows = 0
    for file in files:
        masked = len(snapshot.masked.get(file.path, ()))
        live = file.rows - masked
        dirty = masked > (0 if every_mask else MASKED_SHARE * file.rows)
        if not dirty and (every_mask or live >= SMALL_ROWS):
            continue
        if group and rows + live > TARGET_ROWS:
            yield Group(kind, space, tuple(group), rows)
            group, rows = [], 0
        group.append(file)
        rows += live
    lone = len(group) == 1 and not len(snapshot.masked.get(group[0].path, ()))
    if group and not lone:
        yield Group(kind, space, tuple(group), rows)


def compact(snapshot: Snapshot, group: Group, run_id: str, started_at: datetime, lease: Lease) -> Snapshot:
    """Replace the files of a group by one, as a version of its own; the new head.

    Nothing happens (the head is returned) if one of the files is not live any more.
    """
    root = snapshot.root
    made = rewrite(snapshot, group)
    written = [made.file] if made.file is not None else []
    record = None
    try:
        with drafting(root, snapshot, lease) as draft:
            if any(f.path not in draft.before.state.files for f in group.files):
                discard(root, written, unless=None)
                return draft.before
            record = succeeding(draft.before.head, verb="maintain", run_id=run_id, started_at=started_at)
            deletes = parquet.write_some(root, "data/deletes", _masks_since(snapshot, draft.before, made))
            written += deletes
            files = () if made.file is None else (made.file,)
            added: dict[str, object] = {"deletes": deletes, "removed": tuple(f.path for f in group.files)}
            added[group.kind] = {group.space_id: files} if group.kind == "vectors" else files
            record = record.model_copy(update=added)
            return draft.publish(record)
    except BaseException:
        discard(root, written, unless=record)
        raise


def rewrite(snapshot: Snapshot, group: Group) -> _Rewritten:
    """Write the live rows of a group's files, in their order, into a new file; nobody sees it yet."""
    root = snapshot.root
    folder = f"data/vectors/{group.space_id}" if group.kind == "vectors" else f"data/{group.kind}"
    made = _Rewritten()
    if not group.rows:
        return made
    schema = parquet.schema(root, group.files[0])
    first = 0
    with parquet.Writer(root, folder, schema) as writer:
        for file in group.files:
            masked = snapshot.masked.get(file.path, np.empty(0, np.int64))
            made.kept[file.path] = (np.delete(np.arange(file.rows), masked), first)
            first += file.rows - len(masked)
            at = 0
            for batch in parquet.batches(root, file, rows=ROW_GROUP):
                gone = masked[(masked >= at) & (masked < at + batch.num_rows)] - at
                rows = np.delete(np.arange(batch.num_rows), gone)
                at += batch.num_rows
                if len(rows):
                    writer.write(batch.take(arrays.from_numpy(rows, pa.int64())).cast(schema))
    made.file = writer.written()
    return made


def _masks_since(before: Snapshot, now: Snapshot, made: _Rewritten) -> pa.Table:
    """Rows of the new file that were masked, in the old files, since it was written."""
    rows = []
    for path, (positions, first) in made.kept.items():
        masked = now.masked.get(path, np.empty(0, np.int64))
        new = np.setdiff1d(masked, before.masked.get(path, np.empty(0, np.int64)))
        rows.append(first + np.searchsorted(positions, new))
    found = np.concatenate([np.empty(0, np.int64), *rows])
    path = made.file.path if made.file else ""
    return pa.table({"path": [path] * len(found), "row": found}, schema=DELETES)


def consolidate(
    snapshot: Snapshot, leaving: frozenset[str] = frozenset()
) -> tuple[pa.Table, tuple[str, ...]] | None:
    """One table of all masks that still count, and the deletes files it stands for; None if not worth it.

    Those of files that are `leaving` with the same record do not count any more.
    """
    files = snapshot.files("deletes")
    masked = {path: rows for path, rows in snapshot.masked.items() if path not in leaving}
    still = sum(len(rows) for rows in masked.values())
    if len(files) < 2 and not (files and still == 0):
        return None
    paths = [path for path, rows in masked.items() for _ in range(len(rows))]
    rows = np.concatenate([np.empty(0, np.int64), *masked.values()])
    table = pa.table({"path": paths, "row": rows}, schema=DELETES)
    return table, tuple(f.path for f in files)

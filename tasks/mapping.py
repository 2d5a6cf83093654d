"""Stored rows carried over by a basis: streamed from Parquet to Parquet, file by file, here or on Ray."""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.basis.files import from_bytes
from encoders.spec import EncoderFacts, EncoderSpec
from storage import arrays, building, kept, parquet
from storage.building import Appended
from storage.commits import Counts, Release
from storage.errors import CommitConflict
from storage.locks import Lease
from storage.parquet import DataFile
from storage.schemas import VECTOR_COLUMNS, vectors_schema
from storage.snapshot import Snapshot
from tasks import cluster
from tasks.errors import RunFailed
from tasks.paths import space_of
from tasks.progress import Landed, Progress
from tasks.project import Project
from tasks.side import SideFeatures

logger = logging.getLogger(__name__)

WINDOW_ROWS = 1_000_000
"""Rows of one commit: what a killed upgrade loses at most."""

_TRIES = 5
_READ = [c for c in VECTOR_COLUMNS if c not in ("basis_id", "residual", "run_id")]


@dataclass(frozen=True)
class MapJob:
    """All that a worker needs to carry the rows of one file over.

    `spec` and `facts` are the new encoder's, whose side features join where the basis takes some.
    """

    project: Project
    source: Release
    release: Release
    spec: EncoderSpec
    facts: EncoderFacts
    basis: bytes
    folder: Path
    run_id: str


def map_rows(project: Project, snapshot: Snapshot, job: MapJob, lease: Lease, progress: Progress) -> Landed:
    """Give every item that has rows of its own in the source space mapped ones; durable window by window.

    Rows that an encoder gave natively in passing are taken as they are, with origin `encoded`. What is
    a map itself, or cannot be mapped, is left out: it is encoded afterwards. Raises `RunFailed`.
    """
    landed = Landed(snapshot.version)
    head = snapshot
    for _ in range(_TRIES):
        try:
            head = _mapped(project, head, job, lease, progress, landed)
            landed.version = head.version
            return landed
        except CommitConflict as error:
            logger.info("the rows of the last window are mapped again: %s", error)
            head = head.advanced(strict=True)
    raise RunFailed(
        f"collection {snapshot.root.name!r} was compacted or changed {_TRIES} times while its rows were "
        "mapped; what was committed stays, the same command goes on from there"
    )


def _mapped(
    project: Project, head: Snapshot, job: MapJob, lease: Lease, progress: Progress, landed: Landed
) -> Snapshot:
    done = _items_of(head, job.release.space_id)
    files = head.files("vectors", job.source.space_id)
    total = sum(file.rows for file in files)
    seen = durable = 0
    window: list[Appended] = []
    started = datetime.now(UTC)
    base = head
    for file, appended in _stream(project, base, job, files, done):
        seen += file.rows
        if appended is not None:
            window.append(appended)
        if sum(a.written.rows for a in window) >= WINDOW_ROWS:
            head = _commit(project, base, job, window, started, lease, landed)
            window, durable = [], seen
        progress(seen, total, durable)
    if window:
        head = _commit(project, base, job, window, started, lease, landed)
    progress(total, total, total)
    return head


def _commit(
    project: Project,
    base: Snapshot,
    job: MapJob,
    window: list[Appended],
    started: datetime,
    lease: Lease,
    landed: Landed,
) -> Snapshot:
    counts = Counts(chunks=sum(a.written.rows for a in window))
    after = building.append(
        project.lake, base, job.release, window,
        run_id=job.run_id, started_at=started, counts=counts, lease=lease,
    )  # fmt: skip
    landed.counts += counts
    landed.version = after.version
    return after


def _stream(
    project: Project, base: Snapshot, job: MapJob, files: list[DataFile], done: pa.Array
) -> Iterator[tuple[DataFile, Appended | None]]:
    """Every file of the source space with what was made of it: by threads here, or by tasks on Ray."""
    resources = project.collection(base.root.name).resources
    if project.ray_address is None and resources.actors is None:
        with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1) or 1) as pool:
            yield from zip(files, pool.map(lambda file: map_file(base, job, file, done), files), strict=True)
        return
    with cluster.running(project, resources):
        yield from _on_ray(base, job, files, done)


def _on_ray(
    base: Snapshot, job: MapJob, files: list[DataFile], done: pa.Array
) -> Iterator[tuple[DataFile, Appended | None]]:
    """As Ray tasks, of which a few more than there are cores are under way."""
    import ray

    held = ray.put((base, job, done))
    remote = ray.remote(max_retries=2, num_cpus=1)(_map_on_ray)
    ahead = int(ray.cluster_resources().get("CPU", 1)) + 1
    waiting: list[tuple[DataFile, object]] = []
    for file in files:
        waiting.append((file, remote.remote(held, file)))
        if len(waiting) > ahead:
            first, found = waiting.pop(0)
            yield first, _got(found)
    for first, found in waiting:
        yield first, _got(found)


def _map_on_ray(held: tuple[Snapshot, MapJob, pa.Array], file: DataFile) -> Appended | None:
    return map_file(held[0], held[1], file, held[2])


def _got(found: object) -> Appended | None:
    import ray
    from ray.exceptions import RayError

    try:
        appended: Appended | None = ray.get(found)
    except RayError as error:
        raise RunFailed(
            f"a worker that mapped rows failed ({type(error).__name__}: {error}); what was committed stays, "
            "the same command goes on from there"
        ) from error
    return appended


def map_file(base: Snapshot, job: MapJob, file: DataFile, done: pa.Array) -> Appended | None:
    """Carry the rows of one file over into a new file, durable on return; None if it has none to carry."""
    mapper = _Mapper(base, job)
    positions: list[np.ndarray] = []
    writer = None
    with contextlib.ExitStack() as stack:
        for at, rows in _whole_items(_wanted(base, file, done)):
            carried, table = mapper(rows)
            if not table.num_rows:
                continue
            if writer is None:
                place = f"data/vectors/{job.release.space_id}"
                writer = stack.enter_context(
                    parquet.Writer(base.root, place, vectors_schema(job.release.dim))
                )
            writer.write(table)
            positions.append(at[carried])
    return None if writer is None else Appended(file.path, np.concatenate(positions), writer.written())


class _Mapper:
    """A basis, loaded once, with what it needs beside the rows."""

    def __init__(self, base: Snapshot, job: MapJob) -> None:
        self._base, self._job = base, job
        self._basis = from_bytes(job.basis)
        self._side = None
        if self._basis.side:
            folder = job.folder / uuid.uuid4().hex
            self._side = SideFeatures(job.project, job.release, job.spec, job.facts, folder)
        self._kept = kept.Kept(base.root, job.release.space_id, job.release.dim)
        self._kept.refresh()

    def __call__(self, rows: pa.Table) -> tuple[np.ndarray, pa.Table]:
        """Which of the rows, of whole items, could be carried over, and their rows in the new space."""
        old = arrays.to_numpy(rows["vector"].combine_chunks().flatten()).reshape(-1, self._job.source.dim)
        side = self._side.of(self._base, rows) if self._side else None
        made = self._basis.apply(old, side, space=space_of(self._job.source), direction="rows")
        residual = self._basis.residuals(old, side)
        native = self._natives(rows, made)
        residual[native] = np.nan
        carried = np.flatnonzero(_whole(rows["item_id"], np.isfinite(made[:, 0]) & made.any(axis=1)))
        kept_rows = rows if len(carried) == len(made) else rows.take(arrays.from_numpy(carried, pa.int64()))
        if len(carried) < len(made):
            made, residual, native = made[carried], residual[carried], native[carried]
        return carried, self._table(kept_rows, made, residual, native)

    def _natives(self, rows: pa.Table, made: np.ndarray) -> np.ndarray:
        """Put in the vectors that were encoded natively in passing; which rows they are."""
        native = np.zeros(len(made), bool)
        hashes = rows["chunk_hash"].to_pylist() if len(self._kept) else []
        found = self._kept.find(hashes)
        for at, key in enumerate(hashes) if found else ():
            if key in found:
                made[at], native[at] = found[key], True
        return native

    def _table(self, rows: pa.Table, made: np.ndarray, residual: np.ndarray, native: np.ndarray) -> pa.Table:
        encoded = pa.array(native)
        count = len(made)
        columns = {
            **{n: rows[n] for n in ("item_id", "chunk_no", "chunk_start", "chunk_end", "chunk_hash")},
            "origin": pc.if_else(encoded, "encoded", "mapped"),
            "basis_id": pc.if_else(encoded, None, pa.scalar(self._basis.basis_id)),
            "residual": pa.array(residual, pa.float32(), mask=native),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(made.ravel()), made.shape[1]),
            "run_id": pa.array([self._job.run_id]).take(pa.array(np.zeros(count, np.int64))),
        }
        schema = vectors_schema(self._job.release.dim)
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _wanted(base: Snapshot, file: DataFile, done: pa.Array) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Live rows of a file with their positions, but for items that have rows in the new space already."""
    masked = base.masked.get(file.path, np.empty(0, np.int64))
    at = 0
    for batch in parquet.batches(base.root, file, _READ):
        positions = np.arange(at, at + batch.num_rows)
        at += batch.num_rows
        wanted = np.isin(positions, masked, invert=True, assume_unique=True) if len(masked) else None
        if len(done):
            fresh = ~arrays.to_numpy(pc.is_in(batch["item_id"], value_set=done).combine_chunks())
            wanted = fresh if wanted is None else wanted & fresh
        if wanted is not None and not wanted.all():
            positions, batch = positions[wanted], batch.filter(arrays.from_numpy(wanted, pa.bool_()))
        if batch.num_rows:
            yield positions, batch


def _whole_items(
    batches: Iterable[tuple[np.ndarray, pa.Table]],
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """The same rows, cut so that no item lies in two tables; items with a row that is a map are left out."""
    held: tuple[np.ndarray, pa.Table] | None = None
    for positions, rows in batches:
        if held is not None:
            positions, rows = np.concatenate([held[0], positions]), pa.concat_tables([held[1], rows])
        last = rows["item_id"][-1]
        first = pc.index(rows["item_id"], last).as_py()
        held = positions[first:], rows.slice(first)
        if first:
            yield _unmapped(positions[:first], rows.slice(0, first))
    if held is not None:
        yield _unmapped(*held)


def _unmapped(positions: np.ndarray, rows: pa.Table) -> tuple[np.ndarray, pa.Table]:
    native = ~arrays.to_numpy(pc.equal(rows["origin"], "mapped").combine_chunks())
    if native.all():
        return positions, rows
    whole = _whole(rows["item_id"], native)
    return positions[whole], rows.filter(arrays.from_numpy(whole, pa.bool_()))


def _whole(item_ids: pa.ChunkedArray, good: np.ndarray) -> np.ndarray:
    """Rows of those items of which every row is good."""
    if good.all():
        return good
    bad = pc.unique(item_ids.filter(arrays.from_numpy(~good, pa.bool_())))
    return ~arrays.to_numpy(pc.is_in(item_ids, value_set=bad).combine_chunks())


def _items_of(snapshot: Snapshot, space_id: str) -> pa.Array:
    """Ids of the items that have rows in a space."""
    parts = [t["item_id"].combine_chunks() for _, _, t in snapshot.read("vectors", ["item_id"], space_id)]
    return pa.concat_arrays(parts).unique() if parts else pa.array([], pa.string())

"""Backfill: mapped rows give way to encoded ones, the most valuable first, within a budget."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import arrays, kept, releases
from storage.commits import Counts, Release
from storage.errors import CommitConflict, QueryRefused
from storage.locks import Lease
from storage.snapshot import Snapshot
from tasks.errors import NothingThere, OrderUnknown
from tasks.filling import encode_items, fold_kept, rejected
from tasks.progress import Progress, quietly
from tasks.project import Project
from tasks.reader import open as open_reader

ROUND_SECONDS = 60.0
_LEAST_ROUND = 32
"""Rows of the first round, which tells how fast this machine is; and of any other, unless none are left."""

_SQL = "sql:"


@dataclass(frozen=True)
class Budget:
    """How much a backfill may take: rows, seconds, or GPU-seconds; None for what is not bounded."""

    rows: int | None = None
    seconds: float | None = None
    gpu_seconds: float | None = None


@dataclass(frozen=True)
class Backfilled:
    """What a backfill did, in rows (chunks) of one space; coverage is the share of encoded ones."""

    space_id: str
    version: int
    reencoded: int
    folded: int
    remaining: int
    rejected: int
    coverage_before: float
    coverage_after: float


def space_to_fill(snapshot: Snapshot) -> tuple[Release, Release]:
    """The release whose space is to be filled natively, and the one that has all rows: the live one.

    Raises `NothingThere` if all rows of the live release are as its encoder made them.
    """
    head = snapshot.head
    if head is None:
        name = snapshot.root.name
        raise NothingThere(f"collection {name!r} is empty; fill it: evervec ingest {name}")
    live = head.live
    return (live if live.through is None else releases.find(snapshot, live.through)), live


def remaining(snapshot: Snapshot, fill: Release, live: Release) -> int:
    """Rows that have no vector of their own encoder yet: mapped ones, or none at all."""
    head = snapshot.head
    if head is None:
        return 0
    held = head.spaces[fill.space_id]
    return max(0, head.spaces[live.space_id].rows - held.encoded - held.imported)


def backfill(
    project: Project,
    collection: str,
    order: str,
    budget: Budget,
    folder: Path,
    run_id: str,
    lease: Lease,
    progress: Progress,
) -> Backfilled:
    """Encode what is not native yet, in an order, until the budget is used; durable round by round.

    Vectors that were kept in passing go in first, and cost nothing. `order` is `asked` (what searches
    wanted most, then by residual), `residual`, `newest`, `random`, or `sql:EXPRESSION` over the collection
    (highest first).
    """
    started = time.monotonic()
    snapshot = Snapshot.open(project.lake / collection, strict=True)
    fill, live = space_to_fill(snapshot)
    before = coverage(snapshot, fill, live)
    folded = fold_kept(project, snapshot, fill, live, run_id, lease, least=1)
    snapshot = snapshot.advanced(strict=True)
    ids, sizes = candidates(snapshot, fill, live)
    ranked = _ordered(project, snapshot, fill, order, ids)
    done = _Rounds(project, snapshot, fill, folder, run_id, lease, progress, started, budget)
    done.encode([(ids[i], int(sizes[i])) for i in ranked])
    snapshot = Snapshot.open(project.lake / collection, strict=True)
    if order == "asked" and not done.left:
        kept.forget(snapshot.root, kept.noted(snapshot.root)[1])
    return Backfilled(
        space_id=fill.space_id,
        version=snapshot.version,
        reencoded=done.counts.chunks,
        folded=folded.counts.chunks,
        remaining=remaining(snapshot, fill, live),
        rejected=done.counts.rejected,
        coverage_before=before,
        coverage_after=coverage(snapshot, fill, live),
    )


class _Rounds:
    """Rounds of about a minute each, until nothing is left or the budget is used."""

    def __init__(
        self,
        project: Project,
        snapshot: Snapshot,
        fill: Release,
        folder: Path,
        run_id: str,
        lease: Lease,
        progress: Progress,
        started: float,
        budget: Budget,
    ) -> None:
        self._project, self._snapshot, self._fill = project, snapshot, fill
        self._folder, self._run_id, self._lease, self._progress = folder, run_id, lease, progress
        self._budget, self._started = budget, started
        seconds = _seconds_of(project, snapshot.root.name, budget)
        self._until = None if seconds is None else started + seconds
        self.left = 0
        self.counts = Counts()

    def encode(self, ranked: list[tuple[str, int]]) -> None:
        """Encode items (id, rows) in this order."""
        most = self._budget.rows
        if most is not None:
            ends = np.cumsum([size for _, size in ranked])
            fit = int(np.searchsorted(ends, most, side="right"))
            self.left = len(ranked) - fit
            ranked = ranked[:fit]
        total, done = sum(size for _, size in ranked), 0
        at, room = 0, _LEAST_ROUND
        while at < len(ranked) and not self._is_over():
            began = time.monotonic()
            stop, size = at, 0
            while stop < len(ranked) and (size < room or stop == at):
                size += ranked[stop][1]
                stop += 1
            done += self._round([item_id for item_id, _ in ranked[at:stop]], self._folder / f"round-{at}")
            at = stop
            self._progress(done, total, done)
            rate = size / max(time.monotonic() - began, 1e-3)
            room = max(_LEAST_ROUND, int(rate * min(ROUND_SECONDS, self._seconds_left())))
        self.left += len(ranked) - at

    def _round(self, item_ids: list[str], folder: Path) -> int:
        """Encode these items, or as many as the time allows; the rows that were."""
        for _ in range(3):
            try:
                self._snapshot = self._snapshot.advanced(strict=True)
                landed = encode_items(
                    self._project, self._snapshot, self._fill, pa.array(item_ids, pa.string()), folder,
                    self._run_id, "backfill", self._lease, quietly, until=self._until,
                )  # fmt: skip
            except CommitConflict:  # an ingest changed one of them: what it made is native already
                continue
            self.counts += landed.counts
            return landed.counts.chunks
        return 0

    def _is_over(self) -> bool:
        return self._until is not None and time.monotonic() >= self._until

    def _seconds_left(self) -> float:
        return ROUND_SECONDS if self._until is None else max(0.0, self._until - time.monotonic())


def _seconds_of(project: Project, collection: str, budget: Budget) -> float | None:
    """A budget in wall time; GPU-seconds are shared by the GPUs that the actors take."""
    if budget.gpu_seconds is None:
        return budget.seconds
    resources = project.collection(collection).resources
    gpus = (resources.actors or 1) * (resources.gpus_per_actor or 1.0)
    return budget.gpu_seconds / gpus


def coverage(snapshot: Snapshot, fill: Release, live: Release) -> float:
    """The share of rows that are as their encoder made them."""
    head = snapshot.head
    rows = head.spaces[live.space_id].rows if head else 0
    return 1.0 - remaining(snapshot, fill, live) / rows if rows else 1.0


def candidates(snapshot: Snapshot, fill: Release, live: Release) -> tuple[list[str], np.ndarray]:
    """Items with rows that are not native, and how many rows each has.

    Those that the encoder rejected as they are now are left out.
    """
    tables = [t for _, _, t in snapshot.read("vectors", ["item_id", "origin"], live.space_id)]
    if fill.space_id == live.space_id:
        tables = [t.filter(pc.equal(t["origin"], "mapped")) for t in tables]
    if not tables:
        return [], np.empty(0, np.int64)
    ids = pa.concat_tables([t.select(["item_id"]) for t in tables])["item_id"]
    if fill.space_id != live.space_id:
        native = snapshot.read("vectors", ["item_id", "origin"], fill.space_id)
        there = [t.filter(pc.not_equal(t["origin"], "mapped"))["item_id"] for _, _, t in native]
        have = pa.chunked_array([c for t in there for c in t.chunks], pa.string()).combine_chunks()
        ids = ids.filter(pc.invert(pc.is_in(ids, value_set=have)))
    ids = ids.filter(pc.invert(pc.is_in(ids, value_set=rejected(snapshot))))
    counted = pc.value_counts(ids.combine_chunks())
    return counted.field("values").to_pylist(), arrays.to_numpy(counted.field("counts"))


def _ordered(project: Project, snapshot: Snapshot, fill: Release, order: str, ids: list[str]) -> np.ndarray:
    """Places of the items in the order asked for; equal ones by a draw that is always the same."""
    draw = np.random.default_rng(0).permutation(len(ids))
    ranks: dict[str, Callable[[], dict[str, float]]] = {
        "random": dict,
        "residual": lambda: _residuals(snapshot, fill),
        "newest": lambda: _newest(snapshot),
        "asked": lambda: dict(_asked(snapshot, fill)),
    }
    if order.startswith(_SQL):
        value = _by_sql(project, snapshot.root.name, order.removeprefix(_SQL))
    elif order in ranks:
        value = ranks[order]()
    else:
        raise OrderUnknown(f"--order {order}: there are {', '.join(ranks)} and sql:EXPRESSION")
    keys = np.array([value.get(item_id, -np.inf) for item_id in ids], np.float64)
    return np.lexsort((draw, -keys))


def _residuals(snapshot: Snapshot, fill: Release) -> dict[str, float]:
    found: dict[str, float] = {}
    for _, _, table in snapshot.read("vectors", ["item_id", "residual"], fill.space_id):
        for item_id, residual in zip(*(c.to_pylist() for c in table.columns), strict=True):
            if residual is not None:
                found[item_id] = max(found.get(item_id, 0.0), residual)
    return found


def _newest(snapshot: Snapshot) -> dict[str, float]:
    found: dict[str, float] = {}
    for _, _, table in snapshot.read("items", ["item_id", "observed_at"]):
        times = table["observed_at"].cast("int64").to_pylist()
        found |= dict(zip(table["item_id"].to_pylist(), times, strict=True))
    return found


def _asked(snapshot: Snapshot, fill: Release) -> dict[str, float]:
    """How often each was a candidate; those that never were follow by their residual, which is below 1."""
    counts, _ = kept.noted(snapshot.root)
    return {
        **{i: r / 4 for i, r in _residuals(snapshot, fill).items()},
        **{i: 1.0 + n for i, n in counts.items()},
    }


def _by_sql(project: Project, collection: str, expression: str) -> dict[str, float]:
    query = f"SELECT item_id, max(({expression})::DOUBLE) AS worth FROM {collection} GROUP BY item_id"
    try:
        with open_reader(project) as lake:
            table = lake.sql(query)
    except QueryRefused as error:
        raise OrderUnknown(f"--order {_SQL}{expression}: {str(error).splitlines()[0]}") from None
    rows = zip(table["item_id"].to_pylist(), table["worth"].to_pylist(), strict=True)
    return {item_id: worth for item_id, worth in rows if worth is not None}

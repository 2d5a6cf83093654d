"""The probe: every way to carry stored vectors over to a new encoder, measured on the user's own data."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from storage.snapshot import Snapshot
from tasks import sampling
from tasks.asking import Asked, Queries, asked_of
from tasks.errors import GateRefused, TooFew
from tasks.gate import Limits
from tasks.measured import Measured, reused
from tasks.native import natively
from tasks.originals import job_of
from tasks.paths import space_of
from tasks.probed import Probed
from tasks.progress import Progress
from tasks.project import Project
from tasks.sampling import Sample
from tasks.side import SideFeatures
from tasks.targets import Target, is_same_space
from tasks.trial import Arrays, Held, Trial

SAMPLE = 4_000
CASCADES = (50, 100, 200)
_LEAST_PAIRS = 16
_LEAST_QUERIES = 20
_ALIKE = 1e-6


@dataclass(frozen=True)
class ProbeAsk:
    """What a probe was asked for. `label` is an SQL expression over the items."""

    to: str
    sample: int = SAMPLE
    queries: Path | None = None
    label: str | None = None
    samples: bool = False
    families: Literal["all", "linear"] = "all"
    cascades: tuple[int, ...] = CASCADES
    limits: Limits = field(default_factory=Limits)

    @property
    def settings(self) -> str:
        """What of this a verdict depends on, beside encoders, queries and label."""
        asked = self.limits
        return (
            f"sample={self.sample} families={self.families} cascades={self.cascades} seconds={asked.seconds} "
            f"money={asked.money} query_ms={asked.query_ms} least={asked.min_gap_closed}"
        )


def fingerprints(target: Target, ask: ProbeAsk) -> dict[str, str]:
    """What a probe is of: it holds for nothing else."""
    return {
        "from": target.live.fingerprint,
        "live_release": str(target.live.release),
        "mapped_from": target.source.fingerprint,
        "to": target.facts.fingerprint,
        "chunking": target.release.chunking_id,
        "asked": ask.settings,
    }


def probe(
    project: Project, snapshot: Snapshot, target: Target, ask: ProbeAsk, folder: Path, progress: Progress
) -> Probed:
    """Measure all ways from what is live to the target's encoder; commits nothing.

    Native vectors of the sample go into the spool of what was encoded in passing, so that a second probe,
    and the upgrade, find them. Raises `TooFew`, `GateRefused`, `EncoderChanged`, `QueriesUnusable`.
    """
    items = snapshot.head.total_items if snapshot.head else 0
    judged = asked_of(project, snapshot, ask.queries, ask.label)
    judged = judged.within(round(sampling.HELD_OUT * min(ask.sample, items)))
    known = fingerprints(target, ask)
    same = is_same_space(project, snapshot, target, folder, progress)
    source = target.live if same else target.source
    ids = sampling.drawn(snapshot, source.space_id, ask.sample, judged.needed)
    if not ids:
        raise TooFew(
            f"no item of collection {snapshot.root.name!r} has a vector of its own in {source.space_id}, so "
            "no pair of an old and a new vector can be made"
        )
    if same:
        old = sampling.stored(snapshot, source, ids)
        return reused(project, snapshot, target, sampling.paired(old), judged, ask.limits, known, folder)
    cut = target.as_stored
    job = job_of(project, snapshot, cut, target.spec, target.facts)
    native = natively(project, snapshot, job, source.chunking_id, ids, folder, progress)
    old = sampling.stored(snapshot, source, native.items)
    live = target.live
    served = old if live.space_id == source.space_id else sampling.stored(snapshot, live, native.items)
    sample = sampling.joined(old, served, native, judged.needed)
    _require_distinct(target, sample)
    side = SideFeatures(project, cut, target.spec, target.facts, folder)
    trial, queries = _trial(project, snapshot, target, sample, judged, side, folder)
    measured = Measured(project, snapshot, target, native, sample, trial, queries, side)
    return measured.probed(
        judged, ask.families, ask.cascades, ask.limits, known, progress, samples=ask.samples
    )


def _require_distinct(target: Target, sample: Sample) -> None:
    """Raise `GateRefused` if the new vectors are all one: nothing could be found by them.

    No measure would tell: the neighbours of such an encoder are perfectly its own.
    """
    if len(sample.new) > 1 and float(np.ptp(sample.new, axis=0).max()) <= _ALIKE:
        raise GateRefused(
            f"encoder {target.name!r} gives one and the same vector for all of {len(sample.new):,} sampled "
            "chunks: a search would find anything. Is its model loaded as it should be?"
        )


def _trial(
    project: Project,
    snapshot: Snapshot,
    target: Target,
    sample: Sample,
    judged: Asked,
    side: SideFeatures,
    folder: Path,
) -> tuple[Trial, Queries]:
    features = side.of(snapshot, sample.rows) if side.fingerprint else None
    if features is not None and not np.isfinite(features).all():
        features = None
    arrays = Arrays(sample.old, sample.new, features)
    item_of = sample.item_of
    fit_rows = np.flatnonzero(~sample.held[item_of])
    held_rows = np.flatnonzero(sample.held[item_of])
    held_items = np.flatnonzero(sample.held)
    first = np.searchsorted(item_of[held_rows], held_items)
    queries = judged.queries(project, snapshot, target, sample, held_items, folder)
    if len(fit_rows) < _LEAST_PAIRS or len(queries.truth.relevant) < _LEAST_QUERIES:
        raise TooFew(
            f"{len(fit_rows)} pairs to fit a map on and {len(queries.truth.relevant)} queries to measure it "
            f"with are too few to conclude anything from (at least {_LEAST_PAIRS} and {_LEAST_QUERIES}). "
            "Give a larger --sample, or other --queries or --label; a small collection is encoded anew in a "
            f"moment: evervec upgrade {snapshot.root.name} --to {target.name} --force-strategy reencode --yes"
        )
    held = Held(
        arrays.at(held_rows), sample.served[held_rows], first, queries.served, queries.new, queries.truth
    )
    rows = snapshot.head.spaces[target.live.space_id].rows if snapshot.head else 0
    trial = Trial(
        arrays.at(fit_rows), held, space_of(target.source), space_of(target.release), side.fingerprint, rows
    )
    return trial, queries

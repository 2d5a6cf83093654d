"""From a trial to the values of a report: options with their costs, curves, and the verdict."""

import os
import platform
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from encoders.basis import measure
from encoders.basis.families import FAMILIES
from encoders.basis.measure import Bootstrap
from encoders.basis.spec import Direction
from encoders.catalog import open_tokenizer
from storage.commits import Commit
from storage.snapshot import Snapshot
from tasks import forecast, shown
from tasks.asking import Asked, Queries
from tasks.calls import opened, opened_media
from tasks.forecast import Extent, Rates
from tasks.gate import Gate, Limits, Way, smallest
from tasks.native import Native
from tasks.paths import space_of
from tasks.probed import BackfillCurve, Calibrated, Cost, Fitted, Option, PairPoint, Probed, Verdict
from tasks.progress import Progress
from tasks.project import Project
from tasks.sampling import Sample
from tasks.side import SideFeatures
from tasks.targets import Target
from tasks.trial import SHARES, Mixed, Trial, Tried

_PACKAGES = ("torch", "numpy", "scipy", "sentence-transformers")
_TIMED = 64


class Measured:
    """All that one trial says, put into the values of a report."""

    def __init__(
        self,
        project: Project,
        snapshot: Snapshot,
        target: Target,
        native: Native,
        sample: Sample,
        trial: Trial,
        queries: Queries,
        side: SideFeatures,
    ) -> None:
        self._project, self._snapshot, self._target = project, snapshot, target
        self._native, self._sample, self._trial = native, sample, trial
        self._queries, self._side = queries, side

    def probed(
        self,
        asked: Asked,
        families: Literal["all", "linear"],
        cascades: Sequence[int],
        limits: Limits,
        fingerprints: Mapping[str, str],
        progress: Progress,
        *,
        samples: bool,
    ) -> Probed:
        """The whole report."""
        trial, target = self._trial, self._target
        names = [n for n, family in FAMILIES.items() if families == "all" or family.closed_form]
        directions: tuple[Direction, ...] = ("rows", "queries") if target.can_bridge else ("rows",)
        tried = trial.families(names, directions, progress)
        mapping, bridge = (
            smallest([t for t in tried if t.basis.direction == direction], trial.bootstrap)
            for direction in ("rows", "queries")
        )
        gate = Gate(trial.status_quo, trial.ceiling, trial.bootstrap, limits)
        ways = self._ways(mapping, bridge, cascades)
        verdict = gate.verdict(ways)
        mixed = trial.mixed(mapping.basis) if mapping else None
        beside = trial.mixed(bridge.basis) if bridge else None
        carried = bridge if verdict.strategy == "bridge" else mapping
        marks = {"status_quo": trial.status_quo, "naive_swap": trial.naive_swap, "ceiling": trial.ceiling}
        return Probed(
            **_head(self._snapshot, target, asked, limits, fingerprints),
            sample=len(self._sample.item_ids),
            pairs=len(trial.pairs.old),
            gallery=len(trial.held.gallery.old),
            queries=len(trial.held.truth.relevant),
            status_quo=float(trial.status_quo.mean()),
            naive_swap=float(trial.naive_swap.mean()),
            ceiling=float(trial.ceiling.mean()),
            intervals={name: trial.bootstrap.interval(scores) for name, scores in marks.items()},
            options=tuple(gate.option(way) for way in ways),
            families=tuple(self._fitted(t, chosen=t in (mapping, bridge)) for t in tried),
            pair_curve=self._pair_curve(mapping),
            pair_curve_basis=mapping.name if mapping else "",
            backfill=_backfill(mixed.curves) if mixed else (),
            scores=shown.histograms(trial, mapping, bridge),
            calibrators=(*_calibrated("map", mixed), *_calibrated("bridge", beside)),
            samples=shown.samples(trial, self._sample, self._queries, carried, texts=samples),
            rows_per_second=self._rates.encoded,
            too_long=self._too_long(),
            unreadable=len(self._native.rejected),
            changed=len(self._native.items) - len(self._sample.item_ids),
            verdict=verdict,
            notes=self._notes(asked, calibrated=mixed is not None and bool(mixed.calibrations)),
        )

    def _ways(self, mapping: Tried | None, bridge: Tried | None, cascades: Sequence[int]) -> list[Way]:
        """Bridge and map, alone and with each cascade, and a full recompute."""
        rates, extent = self._rates, self._extent
        source, target = space_of(self._target.source), space_of(self._target.release)
        ways = []
        if bridge is not None:
            cost = forecast.cost_of_bridge(rates, bridge.basis, target, bridge.seconds)
            ways += self._with_cascades("bridge", bridge, cost, cascades)
        if mapping is not None:
            cost = forecast.cost_of_map(rates, extent, mapping.basis, source, mapping.seconds)
            ways += self._with_cascades("map", mapping, cost, cascades)
        full = forecast.cost_of_reencode(rates, extent, target.dim)
        return [*ways, Way("reencode", None, 0, self._trial.ceiling, full)]

    def _with_cascades(
        self, strategy: Literal["bridge", "map"], tried: Tried, cost: Cost, cascades: Sequence[int]
    ) -> list[Way]:
        return [
            Way(strategy, tried, 0, tried.scores, cost),
            *(
                Way(
                    strategy,
                    tried,
                    cascade,
                    self._trial.cascaded(tried.basis, cascade),
                    forecast.with_cascade(cost, cascade, self._rates),
                )
                for cascade in cascades
            ),
        ]

    def _fitted(self, tried: Tried, *, chosen: bool) -> Fitted:
        return Fitted(
            basis=tried.basis.family,
            side=tried.with_side,
            direction="map" if tried.basis.direction == "rows" else "bridge",
            score=float(tried.scores.mean()),
            interval=self._trial.bootstrap.interval(tried.scores),
            seconds=tried.seconds,
            parameters=tried.basis.parameters,
            chosen=chosen,
        )

    def _pair_curve(self, mapping: Tried | None) -> tuple[PairPoint, ...]:
        points = self._trial.pair_curve(mapping) if mapping else []
        interval = self._trial.bootstrap.interval
        return tuple(PairPoint(pairs, float(s.mean()), interval(s)) for pairs, s in points)

    @cached_property
    def _rates(self) -> Rates:
        side = None
        if self._side.fingerprint:
            some = self._sample.rows.slice(0, 512)
            started = time.perf_counter()
            self._side.of(self._snapshot, some)
            side = some.num_rows / max(time.perf_counter() - started, 1e-9)
        return Rates(
            encoded=self._encode_rate(),
            written=forecast.write_rate(self._sample.new[:4_096]),
            side=side,
            price_per_hour=self._project.collection(self._snapshot.root.name).price_per_hour,
        )

    def _encode_rate(self) -> float:
        """Chunks a second: as the sample was encoded, or, if it lay in the spool, by encoding a few again."""
        if self._native.fresh >= _TIMED:
            return self._native.fresh / max(self._native.seconds, 1e-9)
        spec, facts = self._target.spec, self._target.facts
        if not self._sample.texts:
            encoder = opened_media(spec, facts)
            from tasks.canaries import make, names  # the fixed inputs stand for stored media

            started = time.perf_counter()
            made = make(spec, facts, names(facts))
            return len(made) / max(time.perf_counter() - started, 1e-9) if encoder else 1.0
        texts = self._sample.texts[:_TIMED]
        encode = opened(spec, facts).encode
        encode(texts[:2])
        started = time.perf_counter()
        encode(texts)
        return len(texts) / max(time.perf_counter() - started, 1e-9)

    @cached_property
    def _extent(self) -> Extent:
        head = _head_of(self._snapshot)
        source = head.spaces[self._target.source.space_id]
        there = head.spaces.get(self._target.release.space_id)
        native = (there.encoded if there else 0) or len(self._sample.new)
        return Extent(source.rows, min(native, source.rows), source.mapped)

    def _too_long(self) -> int:
        """Items with a chunk that the new encoder does not read to its end."""
        facts = self._target.facts
        if not self._sample.texts:
            return 0
        tokenizer = open_tokenizer(facts)
        room = facts.max_tokens - tokenizer.special_tokens
        long = np.array(tokenizer.count(self._sample.texts)) > room
        return len(np.unique(self._sample.item_of[long]))

    def _notes(self, asked: Asked, *, calibrated: bool) -> tuple[str, ...]:
        target, sample = self._target, self._sample
        depth = self._trial.depth(100)
        said = [
            (
                self._extent.rows > len(self._trial.held.gallery.old),
                f"A cascade of 100 over the whole collection was measured at depth {depth} in the gallery, "
                "which is so much smaller.",
            ),
            (
                asked.unused > 0,
                f"{asked.unused:,} more judged queries were left out, so that items remain to fit maps on.",
            ),
            (calibrated, "Mapped and encoded rows rank better through calibrators; the release gets them."),
            (
                self._queries.served is None,
                "The old encoder is not at hand: nobody can ask in words, so the status quo finds nothing.",
            ),
            (
                not target.can_bridge,
                "New items could not be encoded into the old space: no bridge is offered.",
            ),
            (
                target.source.release != target.live.release,
                f"Rows are mapped from {target.source.space_id} (release {target.source.release}): live rows "
                "are maps themselves, and a map of a map loses more.",
            ),
            (
                bool(sample.texts) and target.release.chunking_id != target.live.chunking_id,
                "New spans were asked for; what was measured is with those that are stored.",
            ),
        ]
        return tuple(sentence for applies, sentence in said if applies)


def reused(
    project: Project,
    snapshot: Snapshot,
    target: Target,
    sample: Sample,
    asked: Asked,
    limits: Limits,
    fingerprints: Mapping[str, str],
    folder: Path,
) -> Probed:
    """The report where old and new encoder write into one space: old rows, new rows and any mix are alike."""
    reason = (
        f"{target.name!r} is the encoder that is live already"
        if target.is_live
        else f"{target.name!r} gives the vectors that are stored, for every canary and a sample of the chunks"
    )
    held = np.flatnonzero(sample.held)
    queries = asked.queries(project, snapshot, target, sample, held, folder)
    rows = np.flatnonzero(sample.held[sample.item_of])
    first = np.searchsorted(sample.item_of[rows], held)
    scores = np.zeros(0)
    if len(queries.truth.relevant):
        scores = queries.truth.score(
            measure.best_of_items(measure.cosines(queries.new, sample.new[rows]), first)
        )
    score = float(scores.mean()) if len(scores) else 0.0
    interval = Bootstrap(len(scores)).interval(scores) if len(scores) else (0.0, 0.0)
    cost = Cost(0, 0.0, 0, None, None, 0.0)
    option = Option("reuse", None, False, 0, score, interval, (0.0, 0.0, 0.0), None, cost, True, reason)
    return Probed(
        **_head(snapshot, target, asked, limits, fingerprints),
        sample=len(sample.item_ids),
        pairs=0,
        gallery=len(rows),
        queries=len(scores),
        status_quo=score,
        naive_swap=score,
        ceiling=score,
        intervals=dict.fromkeys(("status_quo", "naive_swap", "ceiling"), interval),
        options=(option,),
        families=(),
        pair_curve=(),
        pair_curve_basis="",
        backfill=(),
        scores=(),
        calibrators=(),
        samples=(),
        rows_per_second=0.0,
        too_long=0,
        unreadable=0,
        changed=0,
        verdict=Verdict("reuse", 0, None, reason),
        notes=(),
    )


def _head(
    snapshot: Snapshot, target: Target, asked: Asked, limits: Limits, fingerprints: Mapping[str, str]
) -> dict[str, Any]:
    """What every report begins with."""
    head = _head_of(snapshot)
    now = datetime.now(UTC)
    return {
        "id": f"{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}",
        "collection": snapshot.root.name,
        "made_at": now.isoformat(timespec="milliseconds"),
        "version": head.number,
        "from_space": target.live.space_id,
        "from_model": str(target.live.encoder.get("model", "(not at hand)")),
        "to_space": target.release.space_id,
        "to_model": target.spec.model,
        "to_encoder": target.name,
        "rows": head.spaces[target.live.space_id].rows,
        "items": head.total_items,
        "tier": asked.tier,
        "metric": asked.metric,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in _PACKAGES},
        "fingerprints": dict(fingerprints),
        "queries_hash": asked.queries_hash,
        "label": asked.label,
        "queries_unknown": asked.unknown,
        "min_gap_closed": limits.min_gap_closed,
        "seed": 0,
    }


def _head_of(snapshot: Snapshot) -> Commit:
    if snapshot.head is None:
        raise ValueError(f"{snapshot.root} is empty")
    return snapshot.head


def _calibrated(strategy: Literal["bridge", "map"], mixed: Mixed | None) -> Iterator[Calibrated]:
    for origin, found in (mixed.calibrations if mixed else {}).items():
        yield Calibrated(strategy, origin, found.scores, found.relevance)


def _backfill(curves: Mapping[str, tuple[float, ...]]) -> tuple[BackfillCurve, ...]:
    return tuple(
        BackfillCurve(order, SHARES, scores, float(np.trapezoid(scores, SHARES)))
        for order, scores in curves.items()
    )

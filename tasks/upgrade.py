"""The upgrade: what was chosen is built beside the live release, verified, and then made live in one step.

Every stage can be killed: the same command finds the release that is being built, and goes on with it.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from encoders.basis.files import to_bytes
from encoders.basis.fit import fit
from encoders.basis.spec import Basis, Direction
from storage import bases, building, releases
from storage.commits import BasisFile, Calibrator, Release
from storage.errors import CommitConflict
from storage.locks import Lease
from storage.places import Place
from storage.snapshot import Snapshot
from tasks import backfill, canaries, sampling, verify
from tasks.choice import choose
from tasks.complete import complete
from tasks.decision import Decision, Wish
from tasks.errors import Refused, RunFailed
from tasks.filling import encode_items, fold_kept
from tasks.mapping import MapJob, map_rows
from tasks.native import natively
from tasks.originals import job_of
from tasks.paths import space_of
from tasks.probe import ProbeAsk
from tasks.probed import Probed
from tasks.progress import Progress, quietly
from tasks.project import Project
from tasks.side import SideFeatures
from tasks.targets import Target, next_number, target_of

_SEED = 0
_SECONDS = 120.0
_TRIES = 5


@dataclass(frozen=True)
class Begun:
    """An upgrade under way: the release that is built, and the probe that led to it (None: an earlier run's).

    `by_verdict` says that what was measured chose the strategy, and not a person against it.
    """

    collection: str
    target: Target
    release: Release
    run_id: str
    by_verdict: bool
    probed: Probed | None = None
    note: str = ""


def begin(
    project: Project, collection: str, ask: ProbeAsk, wish: Wish, folder: Path, run_id: str, lease: Lease,
    progress: Progress, *, rechunk: bool,
) -> Begun:  # fmt: skip
    """Measure if no probe is fresh, decide, and put the release to build into the log, fitted; durable.

    One that was begun before and never live is gone on with. Raises `GateRefused`, `Refused`, and what a
    probe raises.
    """
    snapshot = Snapshot.open(project.lake / collection, strict=True)
    target = target_of(project, snapshot, ask.to, rechunk=rechunk)
    choice = choose(project, snapshot, target, ask, wish, folder, progress, rechunk=rechunk)
    release, decision = choice.release, choice.decision
    if release is None and decision is not None:
        release = start(project, snapshot, target, decision, folder, run_id, lease, sample=ask.sample)
    if release is None:
        raise ValueError("an upgrade is about a release, or a decision to make one")
    by_verdict = not (release.forced if decision is None else decision.forced)
    return Begun(collection, target, release, run_id, by_verdict, choice.probed, choice.note)


def start(
    project: Project, snapshot: Snapshot, target: Target, decision: Decision, folder: Path, run_id: str,
    lease: Lease, *, sample: int,
) -> Release:  # fmt: skip
    """Fit the basis on all pairs, and put the release into the log, beside the live one; durable."""
    root, head = snapshot.root, snapshot.head
    if head is None:
        raise ValueError(f"{root} is empty")
    said = {"report": decision.report, "forced": decision.forced, "upgraded_from": head.live_release}
    own = target.release.model_copy(update=said)
    if own.canaries is None:
        own = canaries.noted(root, own, target.spec, target.facts)
    if decision.strategy == "reuse":
        same = {
            "release": next_number(head.releases), "strategy": "reuse",
            "fingerprint": target.facts.fingerprint,
            "encoder": target.spec.model_dump(mode="json"), "version": None, "basis": None, "through": None,
            "cascade": 0, "calibrators": (), "canaries": own.canaries, **said,
        }  # fmt: skip
        begun = [target.live.model_copy(update=same)]
    elif decision.strategy == "reencode":
        number = next_number(head.releases)
        begun = [own.model_copy(update={"release": number, "strategy": "reencode", "version": None})]
    else:
        begun = _with_basis(project, snapshot, target, decision, own, folder, sample=sample)
    building.start(root, begun, "upgrade", run_id, lease)
    return begun[-1]


def _with_basis(
    project: Project, snapshot: Snapshot, target: Target, decision: Decision, own: Release, folder: Path,
    *, sample: int,
) -> list[Release]:  # fmt: skip
    """A bridge or a map; a bridge has the release of the new encoder's own space beside it."""
    direction: Direction = "rows" if decision.strategy == "map" else "queries"
    basis = _fitted(project, snapshot, target, decision, direction, folder, sample)
    file = bases.write(snapshot.root, basis.basis_id, to_bytes(basis))
    made = BasisFile(
        basis_id=basis.basis_id, family=basis.family, direction=direction, source=basis.source.space_id,
        target=basis.target.space_id, pairs=basis.pairs, metrics=dict(basis.metrics), file=file,
    )  # fmt: skip
    taken = snapshot.head.releases if snapshot.head else ()
    number = next_number(taken)
    common = {
        "basis": made,
        "cascade": decision.cascade,
        "calibrators": _calibrators(decision, target),
        "version": None,
        "report": decision.report,
        "forced": decision.forced,
        "upgraded_from": own.upgraded_from,
    }
    if decision.strategy == "map":
        return [own.model_copy(update={"release": number, "strategy": "map", **common})]
    native = next((r for r in taken if r.release == target.release.release), None)
    begun = [] if native else [own.model_copy(update={"report": None})]
    through = native or begun[0]
    bridge = {
        "release": number if native else through.release + 1,
        "strategy": "bridge",
        "through": through.release,
        **common,
    }
    return [*begun, target.source.model_copy(update=bridge)]


def _fitted(
    project: Project, snapshot: Snapshot, target: Target, decision: Decision, direction: Direction,
    folder: Path, sample: int,
) -> Basis:  # fmt: skip
    """The chosen family on all pairs, those held out included; its metrics stay those that were held out."""
    ids = sampling.drawn(snapshot, target.source.space_id, sample, ())
    job = job_of(project, snapshot, target.release, target.spec, target.facts)
    native = natively(project, snapshot, job, target.source.chunking_id, ids, folder, quietly)
    old = sampling.stored(snapshot, target.source, native.items)
    pairs = sampling.joined(old, old, native, ())
    side = SideFeatures(project, target.release, target.spec, target.facts, folder)
    source, own = space_of(target.source), space_of(target.release)
    rows = direction == "rows"
    basis = fit(
        decision.family or "",
        pairs.old if rows else pairs.new,
        pairs.new if rows else pairs.old,
        source=source if rows else own,
        target=own if rows else source,
        direction=direction,
        side=side.of(snapshot, pairs.rows) if decision.side else None,
        side_fingerprint=side.fingerprint if decision.side else "",
        seed=_SEED,
        seconds=_SECONDS,
    )
    return basis.measured(decision.metrics)


def _calibrators(decision: Decision, target: Target) -> tuple[Calibrator, ...]:
    spaces = {"bridged": target.source.space_id}
    return tuple(
        Calibrator(
            space_id=spaces.get(c.origin, target.release.space_id),
            origin=c.origin,
            scores=c.scores,
            relevance=c.relevance,
        )
        for c in decision.calibrators
    )


def build(project: Project, begun: Begun, folder: Path, lease: Lease, progress: Progress) -> int:
    """Give a release its rows and its index; what is there already is left. The version then.

    An ingest may go on meanwhile: what it brings is encoded natively, here or by `finish`. Raises
    `RunFailed`.
    """
    release, run_id, lake = begun.release, begun.run_id, project.lake
    snapshot = Snapshot.open(lake / begun.collection, strict=True)
    match release.strategy:
        case "bridge":
            snapshot = _built_bridge(project, snapshot, release, run_id, lease)
        case "map" | "reencode":
            snapshot = _built_rows(project, snapshot, begun, folder, lease, progress)
    return snapshot.version


def _built_bridge(
    project: Project, snapshot: Snapshot, release: Release, run_id: str, lease: Lease
) -> Snapshot:
    """The native space beside a bridge: an index, and what was encoded in passing."""
    native = releases.find(snapshot, release.through or 0)
    if snapshot.head is not None and native.space_id not in snapshot.head.indexes:
        snapshot = building.index(project.lake, snapshot, native, run_id, lease)
    fold_kept(project, snapshot, native, release, run_id, lease, least=1)
    return snapshot.advanced(strict=True)


def _built_rows(
    project: Project, snapshot: Snapshot, begun: Begun, folder: Path, lease: Lease, progress: Progress
) -> Snapshot:
    """All rows of a space: mapped or kept where that is the strategy, the others encoded; and its index."""
    release, target, run_id = begun.release, begun.target, begun.run_id
    indexed = snapshot.head is not None and release.space_id in snapshot.head.indexes
    if release.strategy == "map" and release.basis is not None and not indexed:
        basis = bases.read(snapshot.root, release.basis)
        job = MapJob(project, target.source, release, target.spec, target.facts, basis, folder, run_id)
        map_rows(project, snapshot, job, lease, progress)
    else:
        fold_kept(project, snapshot, release, target.source, run_id, lease, least=1)
    snapshot = snapshot.advanced(strict=True)
    if release.strategy == "reencode":
        ids, _ = backfill.candidates(snapshot, release, release)  # maps of an earlier upgrade
        encode_standing(project, snapshot, release, ids, folder, run_id, lease, progress)
    _completed(project, snapshot.root, release, folder, run_id, lease, progress)
    snapshot = snapshot.advanced(strict=True)
    if snapshot.head is not None and release.space_id not in snapshot.head.indexes:
        snapshot = building.index(project.lake, snapshot, release, run_id, lease)
    return snapshot


def encode_standing(
    project: Project, snapshot: Snapshot, release: Release, ids: list[str], folder: Path, run_id: str,
    lease: Lease, progress: Progress,
) -> None:  # fmt: skip
    """Encode these items in place of what stands there, and go on if an ingest changes some meanwhile."""
    left = pa.array(ids, pa.string())
    for _ in range(_TRIES):
        try:
            encode_items(
                project, snapshot, release, left, folder / "standing", run_id, "upgrade", lease, progress
            )
        except CommitConflict:
            snapshot = snapshot.advanced(strict=True)
            still, _ = backfill.candidates(snapshot, release, release)
            left = pa.array(still, pa.string())
            continue
        return
    raise RunFailed(_CHANGING)


def _completed(
    project: Project, root: Place, release: Release, folder: Path, run_id: str, lease: Lease,
    progress: Progress,
) -> None:  # fmt: skip
    """Encode what the space lacks: what cannot be mapped, and what came meanwhile."""
    for _ in range(_TRIES):
        try:
            complete(project, root.name, release.release, folder, run_id, lease, progress)
        except CommitConflict:
            continue
        return
    raise RunFailed(_CHANGING)


def finish(
    project: Project, begun: Begun, folder: Path, lease: Lease, progress: Progress, *, promote: bool,
    yes: bool,
) -> bool:  # fmt: skip
    """Encode what came last, verify, and make the release live; whether it is live now.

    One that is live stays as it is. Call it with the collection's `ingest` lease, so that nothing comes in
    between. Raises `GateRefused` if what was built is not what was measured, `Refused` if items would be
    missed.
    """
    root, number, run_id = project.lake / begun.collection, begun.release.release, begun.run_id
    snapshot = Snapshot.open(root, strict=True)
    release = releases.find(snapshot, number)
    if snapshot.head is not None and snapshot.head.live_release == number:
        return True
    if release.through is None and release.strategy in ("map", "reencode"):
        _completed(project, root, release, folder, run_id, lease, progress)
        snapshot = snapshot.advanced(strict=True)
        fold_kept(project, snapshot, release, begun.target.source, run_id, lease, least=1)
        snapshot = snapshot.advanced(strict=True)
        _require_whole(snapshot, release, yes=yes)
        snapshot = verify.require_recall(project.lake, snapshot, release, run_id, lease)
    if not promote:
        return False
    releases.make_live(root, number, "promote", run_id)
    return True


def _require_whole(snapshot: Snapshot, release: Release, *, yes: bool) -> None:
    """Raise `Refused` if items lack a vector in the space, unless `yes`."""
    lacking = len(releases.missing(snapshot, release))
    if lacking and not yes:
        name = snapshot.root.name
        raise Refused(
            f"{lacking:,} items of collection {name!r} could not be carried over nor encoded (see: evervec "
            f"errors {name}): readers would not find them any more. Release {release.release} is built; if "
            f"that is acceptable: evervec promote {name} {release.release} --yes"
        )


_CHANGING = (
    "items were changed again and again while they were encoded; what was committed stays, the same command "
    "goes on from there"
)

"""The steps of an ingest, as the flow calls them: few and fat, each plain function a Prefect task."""

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow.compute as pc

from encoders.catalog import Device, describe
from encoders.spec import Chunking, EncoderFacts, EncoderSpec, chunking_of
from storage import kept
from storage.commits import Commit, Release
from storage.locks import Lease, lock
from storage.snapshot import Snapshot
from tasks import diff, originals, spool
from tasks.diff import Plan
from tasks.errors import EncoderChanged, SourceUnusable
from tasks.progress import Filled, Landed, Progress
from tasks.project import Collection, Project
from tasks.project import Source as SourceSettings
from tasks.releases import encoder_of
from tasks.sources.catalog import cells_of, open_source
from tasks.spool import read_part

__all__ = [
    "Forecast",
    "Job",
    "Landed",
    "Plan",
    "check",
    "encode_and_commit",
    "fold_kept",
    "forecast",
    "lease",
    "pull_and_diff",
]


@dataclass(frozen=True)
class Job:
    """A checked ingest: the collection, the encoder that the lake is in, and the version at hand."""

    collection: str
    settings: Collection
    source: SourceSettings
    spec: EncoderSpec
    facts: EncoderFacts
    chunking: Chunking
    cutter: EncoderFacts
    release: Release
    version: int
    releases_kept: int = 1
    kept_for: tuple[Release, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Workplace:
    """What a run holds while it works: the folder of its spool, and the lease of its collection."""

    spool: Path
    lease: Lease


@dataclass(frozen=True)
class Forecast:
    """Counts of a plan that was not carried out."""

    added: int
    updated: int


def check(project: Project, name: str) -> Job:
    """Everything that can be wrong before any work: encoder, chunking, source settings.

    Raises `EncoderChanged` if the lake was written by another encoder or cut by another chunking.
    """
    settings = project.collection(name)
    if settings.source is None or settings.encoder is None:
        raise SourceUnusable(
            f"collection {name!r} has no {'source' if settings.source is None else 'encoder'} in "
            f"evervec.yaml, so nothing can be pulled; give it one, or bring vectors: "
            f"evervec import {name} FILE"
        )
    spec = project.encoders[settings.encoder]
    facts = describe(spec, project.hashes())
    head = Snapshot.open(project.lake / name, strict=True).head  # writers do not go on over damage
    note = ""
    if head is None:
        chunking, cutter = chunking_of(settings.chunk, facts), facts
        release = _first_release(spec, facts, chunking)
    else:
        release = head.live
        if facts.fingerprint != release.fingerprint:
            _require_known(name, settings.encoder, facts, head)
            spec, facts = encoder_of(project, name, release)
            note = (
                f"release {release.release} ({release.space_id}) is live: items are encoded by its encoder, "
                f"not by {settings.encoder!r} of evervec.yaml"
            )
        chunking, cutter = originals.cutting(project, name, head, release, facts)
        if not originals.is_cut_as(project, settings.chunk, head, release, facts):
            _refuse_chunking(name, chunking_of(settings.chunk, facts), release)
    version = head.number if head else 0
    standing = [r for r in head.releases if not r.retired] if head else [release]
    fills = (_asked_by(head),) if head and (release.basis is not None) else ()
    return Job(
        name, settings, settings.source, spec, facts, chunking, cutter, release, version, len(standing),
        fills, note,
    )  # fmt: skip


class _NoLease:
    """What a dry run holds."""

    def still_held(self) -> bool:
        return True


@contextmanager
def lease(project: Project, name: str, *, wait: float, dry_run: bool) -> Iterator[Workplace]:
    """Hold the collection's ingest for this process; yields that lease with the folder for its spool.

    A dry run only looks: it holds nothing and leaves nothing.
    """
    project.collection(name)
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="evervec-") as folder:
            yield Workplace(Path(folder), _NoLease())
        return
    root = project.lake / name
    with lock(root, "ingest", wait=wait) as held:
        if isinstance(root, Path):
            place = root / "_spool"
            spool.discard(place)  # of runs that died
            try:
                yield Workplace(place, held)
            finally:
                spool.discard(place)
        else:
            with tempfile.TemporaryDirectory(prefix="evervec-") as folder:
                yield Workplace(Path(folder), held)


def pull_and_diff(
    project: Project, job: Job, spool: Path, run_id: str, limit: int | None, yes: bool, retry: bool
) -> Plan:
    """Pull the source once and plan what to do. Raises `BadRows`, `Refused`, `SourceUnusable`."""
    snapshot = Snapshot.open(project.lake / job.collection)
    return diff.pull_and_diff(
        open_source(job.source, job.spec.modality, {f.name: f.type for f in snapshot.attributes()}),
        snapshot,
        spool,
        run_id=run_id,
        limit=limit,
        max_deleted=job.settings.max_deleted,
        yes=yes,
        retry=retry,
    )


def encode_and_commit(project: Project, job: Job, plan: Plan, lease: Lease, progress: Progress) -> Landed:
    """Carry out a plan in windows; returns when all of it is durable. Raises `RunFailed`."""
    if plan.is_empty:
        return Landed(job.version)
    from tasks import canaries, cluster, commit  # a run without changes needs none of it: done in a blink
    from tasks.encode import encode_stream
    from tasks.encoded import EncodeJob

    snapshot = Snapshot.open(project.lake / job.collection)
    release = job.release
    if job.version == 0 and plan.changed:
        alone = not cluster.worth_starting(project, job.settings.resources, plan.to_encode)
        device: Device | None = None if alone else "cpu"  # GPUs are for the actors
        release = canaries.noted(snapshot.root, release, job.spec, job.facts, device)
    target = commit.Target(project.lake, job.collection, job.spec.modality, release, lease)
    encoding = open_source(job.source, job.spec.modality, {}).encoding
    work = EncodeJob(job.spec, job.facts, job.chunking, encoding, cells_of(job.source), job.cutter)
    stored = snapshot.chunk_hashes(release.space_id) if plan.changed else np.empty(0, "S16")
    stream = encode_stream(project, job.settings.resources, work, plan.changed, stored)
    with contextlib.closing(stream):  # of a run that fails: no actors are left behind
        return commit.land(target, snapshot, plan, stream, progress)


def fill_retained(
    project: Project, job: Job, place: Workplace, run_id: str, progress: Progress, retry: bool
) -> Filled:
    """Encode what the releases that are kept still lack, so that a switch between them loses no item.

    Their encoders see the same items again; the counts of the run are those of the live release.
    """
    if job.releases_kept < 2:
        return Filled(0)
    from tasks import complete  # torch and lancedb, which most runs do not need for this

    return complete.fill_retained(
        project, job.collection, place.spool, run_id, place.lease, progress, retry=retry
    )


def fold_kept(project: Project, job: Job, place: Workplace, run_id: str) -> int:
    """Take in what searches had encoded since, if that is worth a commit; the version then."""
    root = project.lake / job.collection
    if job.version == 0 or not any(kept.files(root, r.space_id) for r in job.kept_for):
        return 0
    from tasks import filling

    snapshot = Snapshot.open(root, strict=True)
    folded = [
        filling.fold_kept(project, snapshot.advanced(strict=True), fill, job.release, run_id, place.lease)
        for fill in job.kept_for
    ]
    return max(f.version for f in folded)


def forecast(plan: Plan) -> Forecast:
    """How many items a plan would add and update, before any of them was looked into."""
    known = sum(int(pc.sum(read_part(p)["known"]).as_py()) for p in plan.changed)
    refreshed = sum(p.items for p in plan.refreshed)
    return Forecast(added=plan.to_encode - known, updated=known + refreshed)


def _asked_by(head: Commit) -> Release:
    """The release in whose space searches have candidates encoded."""
    return head.live if head.live.through is None else head.release(head.live.through)


def _first_release(spec: EncoderSpec, facts: EncoderFacts, chunking: Chunking) -> Release:
    return Release(
        release=1,
        space_id=facts.space_id,
        dim=facts.dim,
        fingerprint=facts.fingerprint,
        strategy="native",
        encoder=spec.model_dump(mode="json"),
        chunking=chunking.settings,
        chunking_id=chunking.id,
    )


def _require_known(name: str, encoder: str, facts: EncoderFacts, head: Commit) -> None:
    """Raise `EncoderChanged` unless a release was made by this encoder: then the yaml only lags behind."""
    if any(r.fingerprint == facts.fingerprint for r in head.releases):
        return
    raise EncoderChanged(
        f"collection {name!r} holds vectors of {head.live.space_id}, but encoder {encoder!r} now "
        f"writes into {facts.space_id}. Vectors of two spaces must not be mixed. Changing the encoder is "
        f"an upgrade: see what it would give with `evervec probe {name} --to {encoder}`, carry it out with "
        f"`evervec upgrade {name} --to {encoder}`, or put the earlier encoder back"
    )


def _refuse_chunking(name: str, chunking: Chunking, release: Release) -> NoReturn:
    was, now = (", ".join(f"{k}: {v}" for k, v in c.items()) for c in (release.chunking, chunking.settings))
    raise EncoderChanged(
        f"collection {name!r} was chunked with {{{was}}}, evervec.yaml now asks for {{{now}}}. New spans "
        f"need new vectors: put the earlier chunking back, or make them: evervec upgrade {name} --to ENCODER "
        "--strategy reencode --rechunk"
    )

"""The steps of an ingest, as the flow calls them: few and fat, each plain function a Prefect task."""

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from encoders.catalog import describe
from encoders.spec import Chunking, EncoderFacts, EncoderSpec
from storage.commits import Release
from storage.locks import lock
from storage.snapshot import Snapshot
from tasks import diff, spool
from tasks.diff import Plan
from tasks.errors import EncoderChanged
from tasks.progress import Landed, Progress
from tasks.project import Collection, Project
from tasks.sources.catalog import open_source
from tasks.spool import read_part

__all__ = [
    "Forecast",
    "Job",
    "Landed",
    "Plan",
    "check",
    "encode_and_commit",
    "forecast",
    "lease",
    "pull_and_diff",
]


@dataclass(frozen=True)
class Job:
    """A checked ingest: the collection, the encoder that the lake is in, and the version at hand."""

    collection: str
    settings: Collection
    spec: EncoderSpec
    facts: EncoderFacts
    chunking: Chunking
    release: Release
    version: int


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
    spec = project.encoders[settings.encoder]
    facts = describe(spec, project.hashes())
    chunking = Chunking.of(settings.chunk, facts)
    head = Snapshot.open(project.lake / name).head
    if head is None:
        release = _first_release(spec, facts, chunking)
    else:
        release = head.live
        _require_same(name, settings, facts, chunking, release)
    return Job(name, settings, spec, facts, chunking, release, head.number if head else 0)


@contextmanager
def lease(project: Project, name: str, *, wait: float, dry_run: bool) -> Iterator[Path]:
    """Hold the collection's ingest for this process; yields the folder for its spool.

    A dry run only looks: it holds nothing and leaves nothing.
    """
    project.collection(name)
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="evervec-") as folder:
            yield Path(folder)
        return
    root = project.lake / name
    with lock(root, "ingest", wait=wait):
        spool.discard(root / "_spool")  # of runs that died
        try:
            yield root / "_spool"
        finally:
            spool.discard(root / "_spool")


def pull_and_diff(project: Project, job: Job, spool: Path, run_id: str, limit: int | None, yes: bool) -> Plan:
    """Pull the source once and plan what to do. Raises `BadRows`, `Refused`, `SourceUnusable`."""
    snapshot = Snapshot.open(project.lake / job.collection)
    return diff.pull_and_diff(
        open_source(job.settings.source, snapshot.attribute_types()),
        snapshot,
        spool,
        run_id=run_id,
        limit=limit,
        max_deleted=job.settings.max_deleted,
        yes=yes,
    )


def encode_and_commit(project: Project, job: Job, plan: Plan, progress: Progress) -> Landed:
    """Carry out a plan in windows; returns when all of it is durable. Raises `RunFailed`."""
    if plan.is_empty:
        return Landed(job.version)
    from tasks import commit  # a run without changes needs none of it, and is done in a blink
    from tasks.encode import EncodeJob, encode_stream

    snapshot = Snapshot.open(project.lake / job.collection)
    target = commit.Target(project.lake, job.collection, job.spec.modality, job.release)
    source = open_source(job.settings.source, {})
    work = EncodeJob(job.spec, job.facts, job.chunking, source.encoding)
    stored = snapshot.chunk_hashes(job.release.space_id) if plan.changed else np.empty(0, "S16")
    stream = encode_stream(project, job.settings.resources, work, plan.changed, stored)
    with contextlib.closing(stream):  # of a run that fails: no actors are left behind
        return commit.land(target, snapshot, plan, stream, progress)


def forecast(plan: Plan) -> Forecast:
    """How many items a plan would add and update, before any of them was looked into."""
    known = sum(int(pc.sum(read_part(p)["known"]).as_py()) for p in plan.changed)
    refreshed = sum(p.items for p in plan.refreshed)
    return Forecast(added=plan.to_encode - known, updated=known + refreshed)


def _first_release(spec: EncoderSpec, facts: EncoderFacts, chunking: Chunking) -> Release:
    return Release(
        release=1,
        space_id=facts.space_id,
        dim=facts.dim,
        fingerprint=facts.fingerprint,
        strategy="native",
        encoder=spec.model_dump(mode="json"),
        chunking={"max_tokens": chunking.max_tokens, "overlap": chunking.overlap},
        chunking_id=chunking.id,
    )


def _require_same(
    name: str, settings: Collection, facts: EncoderFacts, chunking: Chunking, release: Release
) -> None:
    if facts.fingerprint != release.fingerprint:
        raise EncoderChanged(
            f"collection {name!r} holds vectors of {release.space_id}, but encoder {settings.encoder!r} now "
            f"writes into {facts.space_id}. Vectors of two spaces must not be mixed. Changing the encoder is "
            f"an upgrade, which this version does not have yet (`evervec upgrade {name} --to "
            f"{settings.encoder}`): put the earlier encoder back, or ingest into a new collection"
        )
    if chunking.id != release.chunking_id:
        was = ", ".join(f"{k}: {v}" for k, v in release.chunking.items())
        raise EncoderChanged(
            f"collection {name!r} was chunked with {{{was}}}, evervec.yaml now asks for {{max_tokens: "
            f"{chunking.max_tokens}, overlap: {chunking.overlap}}}. New spans need new vectors: that is an "
            f"upgrade, which this version does not have yet (`evervec upgrade {name} --strategy reencode "
            "--rechunk`): put the earlier chunking back, or ingest into a new collection"
        )

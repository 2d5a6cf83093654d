"""Where an upgrade leads: the encoder asked for, the release it would make, the space that it starts from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encoders.catalog import describe
from encoders.errors import EncoderError
from encoders.spec import EncoderFacts, EncoderSpec, chunking_of
from storage.commits import Commit, Release
from storage.snapshot import Snapshot
from tasks import canaries, sampling
from tasks.errors import EncoderChanged, NothingThere
from tasks.native import natively
from tasks.originals import job_of
from tasks.progress import Progress
from tasks.project import Project
from tasks.releases import encoder_of

SAME = 0.9999
"""Least cosine, of every canary and of every sampled chunk, at which two encoders write into one space."""

_COMPARED = 32


@dataclass(frozen=True)
class Target:
    """An encoder to upgrade to. `live` is what readers get now, `source` the release to map from.

    `release` is that of the target's own space: as it stands, or as it would be made. `can_bridge` says
    that new items can still be encoded into the space of `source`.
    """

    name: str
    spec: EncoderSpec
    facts: EncoderFacts
    live: Release
    source: Release
    release: Release
    can_bridge: bool

    @property
    def is_live(self) -> bool:
        """Readers get it already."""
        return self.live.fingerprint == self.facts.fingerprint

    @property
    def is_cut_alike(self) -> bool:
        """Its chunks are those of what readers get."""
        return self.release.chunking_id == self.live.chunking_id or not self.live.chunking_id

    @property
    def as_stored(self) -> Release:
        """Its release as it would be with the spans that are stored: others cannot be compared with them."""
        cut = {"chunking": self.source.chunking, "chunking_id": self.source.chunking_id}
        return self.release.model_copy(update=cut) if self.source.chunking_id else self.release


def target_of(project: Project, snapshot: Snapshot, name: str, *, rechunk: bool = False) -> Target:
    """The target of an upgrade. Raises `NothingThere`, `EncoderChanged`, or an error of `encoders`."""
    collection = snapshot.root.name
    head = snapshot.head
    if head is None:
        raise NothingThere(f"collection {collection!r} is empty; fill it: evervec ingest {collection}")
    if name not in project.encoders:
        raise EncoderChanged(
            f"encoder {name!r} is not under `encoders:` of evervec.yaml; there are: "
            f"{', '.join(project.encoders)}. Declare it there, and give its name"
        )
    spec = project.encoders[name]
    if spec.modality != head.modality:
        raise EncoderChanged(
            f"encoder {name!r} is for {spec.modality}, collection {collection!r} holds {head.modality}; "
            "upgrade to an encoder of the same kind"
        )
    facts = describe(spec, project.hashes())
    source = source_of(head)
    return Target(
        name=name,
        spec=spec,
        facts=facts,
        live=head.live,
        source=source,
        release=_release(project, head, collection, spec, facts, rechunk=rechunk),
        can_bridge=_is_at_hand(project, collection, source),
    )


def source_of(head: Commit) -> Release:
    """The release to map from: the live one, unless another cut alike holds more rows that are no maps.

    A mapped row is never mapped again: maps of maps lose more than either (arXiv 2510.13406).
    """
    cuts = {head.live.chunking_id, ""}  # imported vectors were cut by others
    kept = [r for r in head.releases if not r.retired and r.version is not None and r.chunking_id in cuts]

    def natives(release: Release) -> tuple[int, bool]:
        held = head.spaces[release.space_id]
        return held.encoded + held.imported, release.release == head.live_release

    return max(kept, key=natives)


def is_same_space(
    project: Project, snapshot: Snapshot, target: Target, folder: Path, progress: Progress
) -> bool:
    """Whether the target's encoder gives the very vectors that are stored: for canaries and for a sample."""
    if target.is_live:
        return True
    source = target.live
    if not source.encoder or source.dim != target.facts.dim:
        return False
    inputs, before = canaries.stored(snapshot, source)
    if not inputs or _least(before, canaries.make(target.spec, target.facts, inputs)) < SAME:
        return False
    ids = sampling.drawn(snapshot, source.space_id, _COMPARED, ())
    cut = target.as_stored
    job = job_of(project, snapshot, cut, target.spec, target.facts)
    native = natively(project, snapshot, job, cut.chunking_id, ids, folder, progress)
    old = sampling.stored(snapshot, source, native.items)
    sample = sampling.joined(old, old, native, ())
    return bool(len(sample.old)) and _least(sample.old, sample.new) >= SAME


def next_number(taken: Iterable[Release]) -> int:
    """The number of the next release."""
    return max((r.release for r in taken), default=0) + 1


def _release(
    project: Project, head: Commit, collection: str, spec: EncoderSpec, facts: EncoderFacts, *, rechunk: bool
) -> Release:
    cut = (head.live.chunking, head.live.chunking_id)
    if rechunk or not head.live.chunking_id:
        chunking = chunking_of(project.collection(collection).chunk, facts)
        cut = (chunking.settings, chunking.id)
    space_id = facts.space_id
    for known in head.releases:
        if known.fingerprint == facts.fingerprint and not known.retired and known.through is None:
            if known.chunking_id == cut[1]:
                return known
            space_id = f"{facts.space_id}_{cut[1][:6]}"  # one space holds one cut of an item
    return Release(
        release=next_number(head.releases),
        space_id=space_id,
        dim=facts.dim,
        fingerprint=facts.fingerprint,
        strategy="reencode",
        encoder=spec.model_dump(mode="json"),
        chunking=cut[0],
        chunking_id=cut[1],
        upgraded_from=head.live_release,
    )


def _is_at_hand(project: Project, collection: str, release: Release) -> bool:
    try:
        encoder_of(project, collection, release)
    except (EncoderError, EncoderChanged):
        return False
    return True


def _least(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.nan_to_num((a * b).sum(axis=1) / norms, nan=-1.0).min())

"""Releases: whose encoder answers, and which one is live."""

import uuid

from encoders.catalog import describe
from encoders.errors import EncoderError
from encoders.spec import EncoderFacts, EncoderSpec
from storage import releases
from storage.commits import Release
from storage.releases import Switched, Verb
from storage.snapshot import Snapshot
from tasks.errors import EncoderChanged, Refused
from tasks.project import Project


def encoder_of(project: Project, collection: str, release: Release) -> tuple[EncoderSpec, EncoderFacts]:
    """The encoder of a release: as recorded, else the collection's declared one if it has its fingerprint.

    Raises `EncoderChanged` if the model's files are no longer what the release was made with, or if its
    vectors were made elsewhere by an encoder that is not at hand.
    """
    if not release.encoder:
        raise EncoderChanged(
            f"the vectors of {release.space_id} in collection {collection!r} were imported, and the encoder "
            "that made them is not at hand: no text can be compared with them. Carry them over to one that "
            f"is: evervec probe {collection} --to ENCODER; or declare theirs under `encoders:` and import "
            f"with --encoder; or go back to another release: evervec rollback {collection}"
        )
    hashes = project.hashes()
    declared = project.collection(collection).encoder
    own = project.encoders[declared] if declared else None
    recorded = EncoderSpec.model_validate(release.encoder)
    for spec in dict.fromkeys([recorded, own or recorded]):
        try:
            facts = describe(spec, hashes)
        except EncoderError:
            if spec == (own or recorded):
                raise
            continue  # moved since: the configuration says where to
        if facts.fingerprint == release.fingerprint:
            return spec, facts
    raise EncoderChanged(
        f"collection {collection!r} holds vectors of {release.space_id}, but the files of {recorded.model} "
        f"now make {facts.space_id}: a query would be compared with vectors of another space. Put the "
        "earlier files back, or ingest into a new collection"
    )


def promote(project: Project, collection: str, number: int, *, yes: bool, dry_run: bool) -> Switched:
    """Make a release live. Raises `Refused` if items lack a vector in its space, unless `yes`."""
    return _switch(project, collection, number, "promote", yes=yes, dry_run=dry_run)


def before_live(project: Project, collection: str) -> int:
    """The release that a rollback would make live. Raises `NoSuchRelease`."""
    project.collection(collection)
    return releases.previous(Snapshot.open(project.lake / collection)).release


def rollback(project: Project, collection: str, *, yes: bool, dry_run: bool) -> Switched:
    """Make the release before the live one live again, at its own head; raises like `promote`."""
    number = before_live(project, collection)
    return _switch(project, collection, number, "rollback", yes=yes, dry_run=dry_run)


def _switch(
    project: Project, collection: str, number: int, verb: Verb, *, yes: bool, dry_run: bool
) -> Switched:
    project.collection(collection)
    snapshot = Snapshot.open(project.lake / collection)
    release = releases.find(snapshot, number)
    if not release.encoder and not yes:
        raise Refused(
            f"the encoder of {release.space_id} is not at hand: under release {number} no text could be "
            f"searched for, and nothing ingested into collection {collection!r}. If that is meant, switch "
            "with --yes"
        )
    lacking = len(releases.missing(snapshot, release))
    if lacking and not yes:
        raise Refused(
            f"{lacking:,} items of collection {collection!r} have no vector in {release.space_id}: searches "
            f"would not find them under release {number}. Encode them first with --complete (those that "
            f"cannot be: evervec errors {collection}), or switch nevertheless with --yes"
        )
    if dry_run and snapshot.head is not None:
        return Switched(number, snapshot.head.live_release, snapshot.version)
    return releases.make_live(project.lake / collection, number, verb, uuid.uuid4().hex[:12])

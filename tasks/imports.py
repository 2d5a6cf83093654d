"""Vectors that were made elsewhere: whose they are, and which release of the collection they belong to.

An import reads its table once. Rows that pass are put aside on disk, the others become rejects; nothing
is committed before all of it was looked at (`import_rows`). Then items are put together (`import_items`)
and go in by windows, each compared with the collection (`import_windows`), so that a run that was killed,
or the same one again, adds what is missing and no more.
"""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from encoders.catalog import describe
from encoders.spec import EncoderFacts, EncoderSpec, Modality, chunking_of
from storage import foreign, tables
from storage.commits import Commit, Release
from storage.export import CHUNKS, Manifest, read_manifest
from storage.snapshot import Snapshot
from tasks.errors import EncoderChanged, SourceUnusable
from tasks.project import INDEX_OWN, RESERVED, Collection, Project

_SPACE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")  # two underscores part the names of index tables
EXPORTED = frozenset(
    (
        "item_id", "modality", "uri", "text", "bytes", "content_hash", "media", "stale_since", "observed_at",
    )
)  # fmt: skip
"""Columns of an export's items that are no attributes."""


@dataclass(frozen=True)
class Given:
    """What was asked for: a table, the names of its columns, and whose vectors they are.

    Of an export every name may be left out; `encoder` and `space` too, if it still has its manifest.
    """

    path: Path
    id: str | None = None
    vector: str | None = None
    text: str | None = None
    uri: str | None = None
    chunk: str | None = None
    attributes: tuple[str, ...] = ()
    encoder: str | None = None
    space: str | None = None


@dataclass(frozen=True)
class Job:
    """A checked import.

    `release` is where the vectors go, `live` whether readers get it: only then new items may come in.
    `encoder` is there if it is to be compared with the vectors. `kept` are the attributes that every item
    of the collection has.
    """

    collection: str
    given: Given
    is_export: bool
    release: Release
    live: bool
    modality: Modality
    encoder: tuple[EncoderSpec, EncoderFacts] | None
    kept: pa.StructType
    version: int


def check(project: Project, name: str, given: Given) -> Job:
    """Everything that can be wrong before the table is read: columns, dims, whose vectors they are.

    Raises `UnreadableTable`, `SourceUnusable`, and `EncoderChanged` if the vectors cannot be what they are
    said to be, or would be the first of a collection that declares another encoder.
    """
    settings = project.collection(name)
    given = replace(given, path=given.path.expanduser().absolute())
    snapshot = Snapshot.open(project.lake / name)
    head = snapshot.head
    if not given.path.exists():
        raise SourceUnusable(
            f"there is no {given.path}; give a Parquet or JSONL file, a folder, or an export"
        )
    manifest = read_manifest(given.path)
    if manifest is not None and manifest.kind != "parquet":
        raise SourceUnusable(
            f"{given.path} is an export to {manifest.kind}; import reads those made with --to parquet"
        )
    is_export = foreign.is_export(given.path)
    if is_export:
        given = _of_export(given, manifest)
    _require_columns(given, is_export=is_export)
    dim = _dim(given)
    made, encoder = _made_by(project, settings, given, manifest, dim)
    if head is None and settings.encoder is not None:
        _require_declared(project, name, settings.encoder, made)
    release = _target(head, made)
    modality = head.modality if head else _modality(project, name, manifest, encoder)
    _require_of(name, modality, given, encoder, is_export=is_export)
    return Job(
        collection=name,
        given=given,
        is_export=is_export,
        release=release,
        live=head is None or release.release == head.live_release,
        modality=modality,
        encoder=None if manifest is not None and manifest.fingerprint == made.fingerprint else encoder,
        kept=snapshot.attributes(),
        version=snapshot.version,
    )


def _modality(
    project: Project, name: str, manifest: Manifest | None, encoder: tuple[EncoderSpec, EncoderFacts] | None
) -> Modality:
    """What the items of a new collection are: as declared, else as the encoder of the vectors takes them."""
    settings = project.collection(name)
    if settings.modality or settings.encoder:
        return project.modality(name)
    if encoder is not None:
        return encoder[0].modality
    made: Modality = manifest.encoder.get("modality", "text") if manifest and manifest.encoder else "text"
    return made


def _require_of(
    name: str,
    modality: Modality,
    given: Given,
    encoder: tuple[EncoderSpec, EncoderFacts] | None,
    *,
    is_export: bool,
) -> None:
    """Raise `SourceUnusable` if what comes in is not what the items of the collection are."""
    if encoder is not None and encoder[0].modality != modality:
        raise SourceUnusable(
            f"collection {name!r} is of {modality}, encoder {given.encoder!r} is for {encoder[0].modality}; "
            "name the encoder that made these vectors, or import into another collection"
        )
    if modality != "text" and given.text is not None and not is_export:
        raise SourceUnusable(
            f"collection {name!r} is of {modality}, which has no texts: name the column of places with "
            "--uri COL in place of --text"
        )


def _of_export(given: Given, manifest: Manifest | None) -> Given:
    """The columns of an export, which nobody needs to name."""
    if any((given.id, given.vector, given.text, given.uri, given.chunk, given.attributes)):
        raise SourceUnusable(
            f"{given.path} is an export: its columns are known. Leave out --id, --vector, --text, --uri, "
            "--chunk and --attributes"
        )
    own = foreign.schema(given.path).names
    text = manifest is not None and manifest.encoder.get("modality", "text") == "text"
    facts = EXPORTED - {"media"} if text else EXPORTED
    attributes = tuple(name for name in own if name not in facts)
    return replace(given, id="item_id", vector="vector", text="text", chunk="chunk_no", attributes=attributes)


def table_files(given: Given, *, is_export: bool) -> list[Path]:
    """The files that hold the vectors. Raises `UnreadableTable`."""
    return foreign.files(given.path / CHUNKS if is_export else given.path)


def _require_columns(given: Given, *, is_export: bool) -> None:
    if given.id is None or given.vector is None or (given.text is None) == (given.uri is None):
        raise SourceUnusable(
            f"{given.path} is no export: name its columns with --id COL --vector COL and either --text COL "
            "or --uri COL"
        )
    taken = [a for a in given.attributes if a.lower() in RESERVED or a in INDEX_OWN or set(a) & set(".`")]
    if taken:
        raise SourceUnusable(
            f"attribute {taken[0]!r} has a name that every collection or its index uses, or one with a dot "
            "or backtick; rename that column, or leave it out of --attributes"
        )
    if len({a.lower() for a in given.attributes}) < len(given.attributes):
        raise SourceUnusable("two of --attributes have one name (SQL knows no case)")
    named = [given.id, given.vector, given.text, given.uri, given.chunk]
    wanted = [n for n in named if n] + ([] if is_export else list(given.attributes))
    for file in table_files(given, is_export=is_export):
        foreign.require_columns(file, wanted)


def _dim(given: Given) -> int:
    """Numbers in the first vector of the table. Raises `SourceUnusable` if it has none."""
    vector = given.vector or ""
    for file in table_files(given, is_export=foreign.is_export(given.path)):
        for batch in tables.scan(file, [vector], [], 256):
            for value in batch.table[vector].to_pylist():
                if found := numbers_of(value):
                    return len(found)
    raise SourceUnusable(f"{given.path}: column {vector!r} holds no list of numbers at all")


def numbers_of(value: Any) -> list[float] | None:
    """A list of numbers, also if it is the JSON of one; None if it is anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if not isinstance(value, list | tuple):
        return None
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    return [float(v) for v in value] if plain else None


def _made_by(
    project: Project, settings: Collection, given: Given, manifest: Manifest | None, dim: int
) -> tuple[Release, tuple[EncoderSpec, EncoderFacts] | None]:
    """The vectors' own release (its number is yet to be found), and their encoder if it is at hand."""
    if given.encoder is not None and given.space is not None:
        raise SourceUnusable("give --encoder or --space, not both: a space is what one encoder writes into")
    if given.encoder is not None:
        made, encoder = _of_encoder(project, settings, given, dim)
    elif given.space is not None:
        made, encoder = _of_space(given.space, dim), None
    elif manifest is not None:
        made, encoder = _of_manifest(manifest), None
    else:
        raise SourceUnusable(
            f"whose vectors are in {given.path}? Name the encoder that made them with --encoder ENC (one of "
            f"evervec.yaml: {', '.join(project.encoders)}), or if it is not at hand, a name for their space "
            "with --space NAME"
        )
    if manifest is not None and manifest.fingerprint != made.fingerprint:
        raise EncoderChanged(
            f"{given.path} was exported from space {manifest.space_id}, which is not {made.space_id}; leave "
            "out --encoder and --space, or name the encoder that it was made with"
        )
    if manifest is not None:
        made = _of_manifest(manifest)  # with the chunking that cut the spans
    return made, encoder


def _of_encoder(
    project: Project, settings: Collection, given: Given, dim: int
) -> tuple[Release, tuple[EncoderSpec, EncoderFacts]]:
    spec = project.encoders.get(given.encoder or "")
    if spec is None:
        known = ", ".join(project.encoders)
        raise SourceUnusable(f"no encoder {given.encoder!r} in evervec.yaml; there are: {known}")
    facts = describe(spec, project.hashes())
    if facts.dim != dim:
        raise EncoderChanged(
            f"{given.path} holds vectors of {dim} numbers, encoder {given.encoder!r} gives {facts.dim}: it "
            "did not make them. Name the one that did, or their space with --space NAME"
        )
    chunking = chunking_of(settings.chunk, facts)
    made = Release(
        release=1,
        space_id=facts.space_id,
        dim=dim,
        fingerprint=facts.fingerprint,
        strategy="imported",
        encoder=spec.model_dump(mode="json"),
        chunking=chunking.settings,
        chunking_id=chunking.id,
    )
    return made, (spec, facts)


def _of_space(name: str, dim: int) -> Release:
    """A space whose encoder is not at hand: the same name and dims are the same space."""
    if not _SPACE.fullmatch(name):
        raise SourceUnusable(
            f"--space {name!r}: names of spaces are small letters, digits and _, beginning with a letter"
        )
    fingerprint = hashlib.sha256(f"imported:{name}:{dim}".encode()).hexdigest()
    return Release(
        release=1,
        space_id=f"{name}_{dim}_{fingerprint[:8]}",
        dim=dim,
        fingerprint=fingerprint,
        strategy="imported",
        encoder={},
        chunking={},
        chunking_id="",
    )


def _of_manifest(manifest: Manifest) -> Release:
    kept = manifest.model_dump(include=set(Release.model_fields) & set(Manifest.model_fields))
    return Release(release=1, strategy="imported", **kept)


def _require_declared(project: Project, name: str, encoder: str, made: Release) -> None:
    """Raise `EncoderChanged` unless the first vectors of a collection are those of its declared encoder."""
    facts = describe(project.encoders[encoder], project.hashes())
    if facts.fingerprint != made.fingerprint:
        raise EncoderChanged(
            f"collection {name!r} declares encoder {encoder!r} ({facts.space_id}), but the vectors are of "
            f"{made.space_id}: the next ingest would refuse to mix them. Import with --encoder {encoder} if "
            f"it made them, else take `encoder:` and `source:` out of collection {name!r} for now"
        )


def _target(head: Commit | None, made: Release) -> Release:
    """The release of these vectors' space: one that is there, the live one first, or a new one."""
    if head is None:
        return made
    for known in (head.live, *reversed(head.releases)):
        if known.fingerprint == made.fingerprint and not known.retired:
            return known
    return made.model_copy(update={"release": len(head.releases) + 1})

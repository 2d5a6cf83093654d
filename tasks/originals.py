"""What stored items were made from, for an encoder that is to see them: texts, or where media lie."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from encoders.catalog import describe
from encoders.errors import EncoderError
from encoders.spec import Chunking, ChunkSpec, EncoderFacts, EncoderSpec, chunking_of
from storage import arrays, parquet
from storage.commits import Commit, Release
from storage.snapshot import Snapshot
from tasks.encoded import CHUNKS, EncodeJob
from tasks.errors import EncoderChanged
from tasks.project import Project
from tasks.sources.catalog import cells_of
from tasks.spool import Part, Spool

_COLUMNS = ("item_id", "uri", "text", "bytes", "content_hash", "attributes_hash", "attributes")
_BATCH = 4_096


def job_of(
    project: Project, snapshot: Snapshot, release: Release, spec: EncoderSpec, facts: EncoderFacts
) -> EncodeJob:
    """How the encoder of a release encodes what is stored: with the release's own chunking."""
    name = snapshot.root.name
    chunking, cutter = cutting(project, name, snapshot.head, release, facts)
    return EncodeJob(spec, facts, chunking, "utf-8", cells_of(project.collection(name).source), cutter)


def cutting(
    project: Project, collection: str, head: Commit | None, release: Release, own: EncoderFacts
) -> tuple[Chunking, EncoderFacts]:
    """The chunking of a release, and the encoder whose tokenizer cuts so: `own`, or an earlier one.

    A chunking outlives the encoder that it came with. Raises `EncoderChanged` if nobody cuts so any more.
    """
    spec = ChunkSpec.model_validate(release.chunking)
    for facts, chunking in _resolved(project, head, spec, own):
        if chunking.id == release.chunking_id:
            return chunking, facts
    raise EncoderChanged(
        f"collection {collection!r} was cut into chunks by the tokenizer of an encoder that is not at hand "
        "any more, so new items cannot be cut alike. Declare that encoder under `encoders:` again, or make "
        f"new spans: evervec upgrade {collection} --to ENCODER --strategy reencode --rechunk"
    )


def is_cut_as(project: Project, spec: ChunkSpec, head: Commit, release: Release, own: EncoderFacts) -> bool:
    """Whether a chunking as declared is that of a release, by the tokenizer of any encoder it may be of."""
    found = _resolved(project, head, spec, own)
    return any(chunking.id == release.chunking_id for _, chunking in found)


def _resolved(
    project: Project, head: Commit | None, spec: ChunkSpec, own: EncoderFacts
) -> Iterator[tuple[EncoderFacts, Chunking]]:
    """The chunking that a declared one is with each encoder, `own` first."""
    recorded = [EncoderSpec.model_validate(r.encoder) for r in (head.releases if head else ()) if r.encoder]
    hashes = project.hashes()
    for candidate in (None, *dict.fromkeys([*recorded, *project.encoders.values()])):
        try:
            facts = own if candidate is None else describe(candidate, hashes)
            yield facts, chunking_of(spec, facts)
        except EncoderError:
            continue  # gone since, or of shorter inputs: another may do


def spooled(
    snapshot: Snapshot, item_ids: Sequence[str] | pa.Array, chunking_id: str, path: Path
) -> tuple[Part, ...]:
    """The stored texts, or the places, of these items, with the spans that they have under a chunking.

    Items that have no text, where texts are stored, are left out: they were imported without one.
    """
    spool = Spool(path)
    wanted_ids = item_ids if isinstance(item_ids, pa.Array) else pa.array(item_ids, pa.string())
    media = snapshot.head is not None and snapshot.head.modality != "text"
    attributes = snapshot.attributes()
    for file, positions, table in snapshot.read("items", ["item_id"]):
        wanted = arrays.to_numpy(pc.is_in(table["item_id"], value_set=wanted_ids).combine_chunks())
        rows_wanted = positions[wanted]
        if not len(rows_wanted):
            continue
        at = 0
        for batch in parquet.batches(snapshot.root, file, _COLUMNS, _BATCH):
            chosen = rows_wanted[(rows_wanted >= at) & (rows_wanted < at + batch.num_rows)] - at
            at += batch.num_rows
            found = batch.take(arrays.from_numpy(chosen, pa.int64()))
            if not media:
                found = found.filter(pc.is_valid(found["text"]))
            if found.num_rows:
                changed = _as_changed(snapshot, chunking_id, found, attributes)
                spool.write(changed if media else _with_texts(changed, found))
    return spool.close()


def _as_changed(snapshot: Snapshot, chunking_id: str, items: pa.Table, attributes: pa.StructType) -> pa.Table:
    """Stored items as the spool of changed ones has them."""
    kept = items.select(["item_id", "uri", "bytes", "content_hash", "attributes_hash"])
    if attributes.num_fields:
        kept = kept.append_column("attributes", arrays.conformed(items, attributes))
    spans = _spans(snapshot, chunking_id, items["item_id"].combine_chunks())
    return kept.append_column("known", pa.array([True] * items.num_rows)).append_column("spans", spans)


def _with_texts(changed: pa.Table, items: pa.Table) -> pa.Table:
    """With their texts as raw content."""
    content = items["text"].cast(pa.large_string()).cast(pa.large_binary())
    return changed.drop_columns(["bytes"]).append_column("content", content)


def _spans(snapshot: Snapshot, chunking_id: str, item_ids: pa.Array) -> pa.Array:
    """The chunks of each item as a space of this chunking has them; null where none has."""
    spans: dict[str, list[tuple[int, dict[str, object]]]] = {}
    releases = snapshot.head.releases if snapshot.head else ()
    alike = {r.space_id for r in releases if r.chunking_id == chunking_id and not r.retired}
    for space in (s for s in snapshot.spaces() if s in alike):
        lacking = pa.array([i for i in item_ids.to_pylist() if i not in spans], pa.string())
        columns = ["chunk_no", "chunk_start", "chunk_end", "chunk_hash"]
        found = snapshot.rows_of("vectors", lacking, columns, space)
        for row in found.to_pylist() if found is not None else ():
            chunk = {"start": row["chunk_start"], "end": row["chunk_end"], "hash": row["chunk_hash"]}
            spans.setdefault(row["item_id"], []).append((row["chunk_no"], chunk))
    ordered = [
        [chunk for _, chunk in sorted(spans[i], key=lambda c: c[0])] if i in spans else None
        for i in item_ids.to_pylist()
    ]
    return pa.array(ordered, CHUNKS)

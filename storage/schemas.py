"""The Arrow schemas of what lies in a lake (one page of truth; a stored format is a promise).

Hashes are raw bytes: SHA-256 (32) of an item's content, so that it equals `sha256sum` of a file;
its first 16 bytes for attributes and chunks, which are compared but never shown to other tools.
"""

from typing import Literal

import pyarrow as pa

FORMAT = 3
"""Number of the layout of commit records, written into each; `migrations.py` reads earlier ones."""

SCHEMA = 2
"""Number of the row schemas below, written into every commit record. A new column raises it."""

Kind = Literal["items", "vectors", "rejects", "deletes"]
"""The kinds of data file; deletes mask rows of the three others."""

TIMESTAMP = pa.timestamp("us", tz="UTC")
CONTENT_HASH = pa.binary(32)
SHORT_HASH = pa.binary(16)

ITEM_COLUMNS = (
    "item_id", "modality", "uri", "text", "bytes", "media", "content_hash", "attributes_hash",
    "attributes", "stale_since", "observed_at", "run_id",
)  # fmt: skip

SHOWN_COLUMNS = ("start_seconds", "end_seconds")
"""What the view of an audio collection has besides."""

MEDIA = pa.struct(
    [
        ("format", pa.string()),
        ("width", pa.int32()),  # pixels, as shown
        ("height", pa.int32()),
        ("seconds", pa.float64()),
        ("rate", pa.int32()),  # samples a second
        ("channels", pa.int32()),
    ]
)

VIEW_SUFFIXES = ("_items", "_vectors", "_rejects", "_versions")
"""The SQL views of a collection C beside C itself."""

VECTOR_COLUMNS = ("item_id", "chunk_no", "chunk_start", "chunk_end", "chunk_hash", "origin",
                  "basis_id", "residual", "vector", "run_id")  # fmt: skip

REJECTS = pa.schema(
    [
        pa.field("item_id", pa.string()),  # null: the row could not even be identified
        pa.field("uri", pa.string()),
        pa.field("stage", pa.string(), nullable=False),  # pull, decode, chunk, encode, map
        pa.field("reason", pa.string(), nullable=False),
        pa.field("error_type", pa.string(), nullable=False),
        pa.field("content_hash", CONTENT_HASH),  # null: the content could not be read
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("rejected_at", TIMESTAMP, nullable=False),
    ]
)

DELETES = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # a data file, relative to the collection
        pa.field("row", pa.int64(), nullable=False),  # position in that file, from 0
    ]
)


def items_schema(attributes: pa.StructType, modality: str = "text") -> pa.Schema:
    """Schema of `data/items`.

    Without attributes there is no such column (Parquet has no empty struct), nor `media` for texts.
    """
    without = {"media"} if modality == "text" else set()
    if attributes.num_fields == 0:
        without.add("attributes")
    fields = [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("text", pa.large_string()),  # null for media
        pa.field("bytes", pa.int64(), nullable=False),  # size of the raw content
        pa.field("media", MEDIA),  # null for what was imported
        pa.field("content_hash", CONTENT_HASH, nullable=False),
        pa.field("attributes_hash", SHORT_HASH, nullable=False),
        pa.field("attributes", attributes),
        pa.field("stale_since", TIMESTAMP),  # newest content was rejected; this is the last good one
        pa.field("observed_at", TIMESTAMP, nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
    ]
    return pa.schema([f for f in fields if f.name not in without])


def vectors_schema(dim: int) -> pa.Schema:
    """Schema of `data/vectors/<space_id>`: one row a chunk, `vector` float32 of `dim` components."""
    return pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("chunk_no", pa.int32(), nullable=False),
            pa.field("chunk_start", pa.int64(), nullable=False),  # code points (text), milliseconds (audio)
            pa.field("chunk_end", pa.int64(), nullable=False),
            pa.field("chunk_hash", SHORT_HASH, nullable=False),
            pa.field("origin", pa.string(), nullable=False),  # encoded, mapped, imported
            pa.field("basis_id", pa.string()),
            pa.field("residual", pa.float32()),
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("run_id", pa.string(), nullable=False),
        ]
    )


def index_schema(dim: int, attributes: pa.StructType) -> pa.Schema:
    """Schema of a LanceDB table: what a search hit shows or filters by, so that a search is one query.

    The key (`item_id`, `chunk_no`) is declared, without which concurrent merges duplicate rows.
    """
    key = {b"lance-schema:unenforced-primary-key": b"true"}
    return pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False, metadata=key),
            pa.field("chunk_no", pa.int32(), nullable=False, metadata=key),
            pa.field("chunk_start", pa.int64()),
            pa.field("chunk_end", pa.int64()),
            pa.field("origin", pa.string()),
            pa.field("uri", pa.string()),
            pa.field("text", pa.string()),  # of the chunk
            *attributes,
            pa.field("vector", pa.list_(pa.float32(), dim)),
        ]
    )

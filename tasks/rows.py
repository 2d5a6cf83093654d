"""Where encoders and storage meet: the output of the stream as rows of the lake."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.schemas import (
    REJECTS,
    SHORT_HASH,
    TIMESTAMP,
    items_schema,
    vectors_schema,
)
from tasks.sources.protocol import PullReject


def items_table(
    done: pa.Table, *, modality: str, attributes: pa.StructType, now: datetime, run_id: str
) -> pa.Table:
    """Item rows of the good rows of a stream."""
    count = done.num_rows
    columns = {
        "item_id": done["item_id"],
        "modality": pa.array([modality] * count),
        "uri": done["uri"],
        "text": done["text"],
        "bytes": done["bytes"],
        "content_hash": done["content_hash"],
        "attributes_hash": done["attributes_hash"],
        "stale_since": pa.nulls(count, TIMESTAMP),
        "observed_at": pa.array([now] * count, TIMESTAMP),
        "run_id": pa.array([run_id] * count),
    }
    if attributes.num_fields:
        columns["attributes"] = done["attributes"]
    if modality != "text":
        columns["media"] = done["media"]
    schema = items_schema(attributes, modality)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def vectors_table(done: pa.Table, matrix: np.ndarray, *, run_id: str) -> pa.Table:
    """Vector rows of the good rows of a stream; `matrix` float32 (chunks, dim) in their order."""
    chunks = done["chunks"].combine_chunks()
    lengths = pc.list_value_length(chunks).to_numpy()
    flat = chunks.flatten()
    total = len(flat)
    first = np.cumsum(lengths) - lengths
    number = (np.arange(total) - np.repeat(first, lengths)).astype(np.int32)
    dim = matrix.shape[1]
    columns = {
        "item_id": done["item_id"].combine_chunks().take(pc.list_parent_indices(chunks)),
        "chunk_no": pa.array(number),
        "chunk_start": flat.field("start"),
        "chunk_end": flat.field("end"),
        "chunk_hash": flat.field("hash").cast(SHORT_HASH),
        "origin": pa.array(["encoded"] * total),
        "basis_id": pa.nulls(total, pa.string()),
        "residual": pa.nulls(total, pa.float32()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), pa.float32()), dim),
        "run_id": pa.array([run_id] * total),
    }
    return pa.table(columns, schema=vectors_schema(dim))


def rejects_table(failed: pa.Table, *, run_id: str, now: datetime) -> pa.Table:
    """Reject rows of the failed rows of a stream; what could not even be read is tried again next time."""
    why = failed["reject"].combine_chunks()
    count = failed.num_rows
    columns = {
        "item_id": failed["item_id"],
        "uri": failed["uri"],
        "stage": why.field("stage"),
        "reason": why.field("reason"),
        "error_type": why.field("error_type"),
        "content_hash": pc.if_else(pc.equal(why.field("stage"), "pull"), None, failed["content_hash"]),
        "run_id": pa.array([run_id] * count),
        "rejected_at": pa.array([now] * count, TIMESTAMP),
    }
    return pa.table(columns, schema=REJECTS)


def pull_rejects_table(rejects: Sequence[PullReject], *, run_id: str, now: datetime) -> pa.Table:
    """Reject rows of what a source could not give."""
    found = [
        {**asdict(r), "stage": "pull", "content_hash": None, "run_id": run_id, "rejected_at": now}
        for r in rejects
    ]
    return pa.Table.from_pylist(found, schema=REJECTS)

"""The encode stream: what a worker is told, and the columns that come out for every item."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from encoders.errors import RowError
from encoders.spec import Chunking, EncoderFacts, EncoderSpec
from storage.schemas import SHORT_HASH

REJECT = pa.struct([("stage", pa.string()), ("reason", pa.string()), ("error_type", pa.string())])
CHUNKS = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("hash", SHORT_HASH)]))

Span = tuple[int, int, bytes]
"""Start and end of a chunk, and the hash of its content."""


@dataclass(frozen=True)
class EncodeJob:
    """All that a worker needs to know.

    `encoding` is that of raw text, where the source knows it; `column` that of the cells, where media are
    bytes in a table. `cutter` is the encoder whose tokenizer cuts texts, where it is not the one that
    encodes: a chunking outlives the encoder that it came with.
    """

    spec: EncoderSpec
    facts: EncoderFacts
    chunking: Chunking
    encoding: str | None = None
    column: str | None = None
    cutter: EncoderFacts | None = None


def chunks_array(chunks: list[list[Span]]) -> pa.Array:
    """The spans of some items as a column."""
    flat = [c for item in chunks for c in item]
    offsets = np.cumsum([0, *map(len, chunks)]).astype(np.int32)
    fields = [
        pa.array([c[0] for c in flat], pa.int64()),
        pa.array([c[1] for c in flat], pa.int64()),
        pa.array([c[2] for c in flat], SHORT_HASH),
    ]
    values = pa.StructArray.from_arrays(fields, fields=list(CHUNKS.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=CHUNKS)


def vectors_array(vectors: list[list[np.ndarray]], dim: int) -> pa.Array:
    """The vectors of some items as a column, one a chunk."""
    matrix = np.asarray([v for item in vectors for v in item], dtype=np.float32).reshape(-1, dim)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), dim)
    offsets = np.cumsum([0, *map(len, vectors)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def reject(error: RowError) -> dict[str, str]:
    """What becomes of an item that failed."""
    return {"stage": error.stage, "reason": str(error), "error_type": type(error).__name__}


def covered(spans: list[tuple[float, float]]) -> float:
    """Seconds during which at least one of the (began, ended) spans was running."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total

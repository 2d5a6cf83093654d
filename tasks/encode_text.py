"""Texts in the encode stream: spooled content to text, chunks and vectors."""

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from encoders.catalog import Device, open_tokenizer
from encoders.chunking import Chunker, chunk_hash
from encoders.decode import decode_text
from encoders.errors import EncoderUnusable, RowError
from encoders.spec import EncoderFacts, TokenChunking
from tasks.calls import Calls
from tasks.encoded import REJECT, EncodeJob, Span, chunks_array, reject, vectors_array


@lru_cache(maxsize=1)
def _chunker(facts: EncoderFacts, chunking: TokenChunking) -> Chunker:
    return Chunker(chunking, open_tokenizer(facts), facts.document_prompt)


def decode_and_chunk(rows: pa.Table, job: EncodeJob) -> pa.Table:
    """Replace `content` by `text`, `chunks` and `reject`; a column `spans` says how a text is cut already."""
    if not isinstance(job.chunking, TokenChunking):
        raise EncoderUnusable(f"{job.spec.model} encodes texts, which are cut by tokens")
    chunker = _chunker(job.cutter or job.facts, job.chunking)
    texts: list[str | None] = []
    chunks: list[list[Span]] = []
    rejects: list[dict[str, str] | None] = []
    given = rows["spans"].to_pylist() if "spans" in rows.column_names else [None] * rows.num_rows
    for content, known in zip(rows["content"].to_pylist(), given, strict=True):
        try:
            text = decode_text(content, declared=job.encoding)
            spans = [(c["start"], c["end"]) for c in known] if known else chunker.spans(text)
        except RowError as error:
            texts.append(None)
            chunks.append([])
            rejects.append(reject(error))
        else:
            texts.append(text)
            chunks.append([(a, b, chunk_hash(text[a:b])) for a, b in spans])
            rejects.append(None)
    sizes = pa.array([0 if c is None else len(c) for c in rows["content"].to_pylist()], pa.int64())
    return (
        rows.drop_columns([n for n in ("content", "spans") if n in rows.column_names])
        .append_column("bytes", sizes)
        .append_column("text", pa.array(texts, pa.large_string()))
        .append_column("chunks", chunks_array(chunks))
        .append_column("reject", pa.array(rejects, REJECT))
    )


class Encode:
    """Loads the encoder once; every call encodes the chunks of some items."""

    def __init__(
        self, job: EncodeJob, stored: np.ndarray | Path, threads: int | None, device: Device | None = None
    ) -> None:
        self._calls = Calls(job, stored, threads, device)

    def __call__(self, rows: pa.Table) -> pa.Table:
        began = time.time()
        texts = rows["text"].to_pylist()
        rejects = rows["reject"].to_pylist()
        spans = rows["chunks"].to_pylist()
        vectors, failed, fresh = self._encode(texts, spans)
        for at, error in failed.items():
            texts[at], spans[at], rejects[at] = None, [], reject(error)
        kept = [[] if at in failed else item for at, item in enumerate(vectors)]
        count = rows.num_rows
        chunks = chunks_array([[(c["start"], c["end"], c["hash"]) for c in item] for item in spans])
        return (
            rows.drop_columns(["text", "chunks", "reject"])
            .append_column("text", pa.array(texts, pa.large_string()))
            .append_column("chunks", chunks)
            .append_column("reject", pa.array(rejects, REJECT))
            .append_column("vectors", vectors_array(kept, self._calls.dim))
            .append_column("fresh", pa.array(fresh, pa.int32()))
            .append_column("began", pa.array([began] * count, pa.float64()))
            .append_column("ended", pa.array([time.time()] * count, pa.float64()))
        )

    def _encode(
        self, texts: list[str | None], spans: list[list[dict[str, Any]]]
    ) -> tuple[list[list[np.ndarray]], dict[int, RowError], list[int]]:
        """Vectors per item, the items that failed, and how many chunks of each were encoded."""
        zeros = np.zeros(self._calls.dim, dtype=np.float32)
        wanted: dict[bytes, str] = {}
        fresh = [0] * len(texts)
        for at, (text, item) in enumerate(zip(texts, spans, strict=True)):
            for chunk in item:
                key = chunk["hash"]
                if text is not None and not self._calls.is_stored(key) and key not in wanted:
                    wanted[key] = text[chunk["start"] : chunk["end"]]
                    fresh[at] += 1
        made = self._calls.vectors(wanted)
        vectors: list[list[np.ndarray]] = []
        failed: dict[int, RowError] = {}
        for at, item in enumerate(spans):
            own = [made.get(chunk["hash"], zeros) for chunk in item]
            vectors.append([v for v in own if not isinstance(v, RowError)])
            bad = [v for v in own if isinstance(v, RowError)]
            if bad:
                failed[at], fresh[at] = bad[0], 0
        return vectors, failed, fresh

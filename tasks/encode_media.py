"""Images and audio in the encode stream: read, decoded and encoded by one worker, a few at a time."""

import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from encoders.catalog import Device, open_preparer
from encoders.errors import RowError
from encoders.pictures import decode_image
from encoders.sounds import decode_audio
from encoders.spec import MediaFacts, WindowChunking
from encoders.windows import cut
from storage.schemas import MEDIA
from tasks.calls import Calls
from tasks.encoded import REJECT, EncodeJob, Span, chunks_array, reject, vectors_array
from tasks.media import Contents
from tasks.spool import Part, read_part

INPUTS_AT_ONCE = 32
"""Chunks of one call of the encoder: some 20 MB of pixels or samples."""


@dataclass(frozen=True)
class _Decoded:
    """An item ready for the encoder; `inputs` are made when they are asked for, one a span."""

    facts: MediaFacts
    spans: list[Span]
    inputs: Iterator[np.ndarray]


class EncodeMedia:
    """Loads the encoder once; every call reads, decodes and encodes some items.

    Threads decode ahead of the encoder by a few items; what is held does not grow with the batch.
    """

    def __init__(
        self, job: EncodeJob, stored: np.ndarray | Path, threads: int | None, device: Device | None = None
    ) -> None:
        self._calls = Calls(job, stored, threads, device)
        self._decoder = _Decoder(job)
        self._threads = threads or os.cpu_count() or 1

    def __call__(self, rows: pa.Table) -> pa.Table:
        began = time.time()
        count = rows.num_rows
        facts: list[dict[str, Any] | None] = [None] * count
        spans: list[list[Span]] = [[] for _ in range(count)]
        rejects: list[dict[str, str] | None] = [None] * count
        made: dict[bytes, np.ndarray | RowError] = {}
        wanted: dict[bytes, np.ndarray] = {}
        fresh = [0] * count
        for at, found in enumerate(self._ahead(rows)):
            if isinstance(found, RowError):
                rejects[at] = reject(found)
                continue
            facts[at], spans[at] = asdict(found.facts), found.spans
            for (_, _, key), one in zip(found.spans, found.inputs, strict=True):
                if key in made or key in wanted or self._calls.is_stored(key):
                    continue
                wanted[key] = one
                fresh[at] += 1
                if len(wanted) == INPUTS_AT_ONCE:
                    made |= self._calls.vectors(wanted)
                    wanted = {}
        made |= self._calls.vectors(wanted)
        vectors = self._of_items(made, facts, spans, rejects, fresh)
        gone = [n for n in ("spans",) if n in rows.column_names]
        return (
            rows.drop_columns(gone)
            .append_column("media", pa.array(facts, MEDIA))
            .append_column("text", pa.nulls(count, pa.large_string()))
            .append_column("chunks", chunks_array(spans))
            .append_column("reject", pa.array(rejects, REJECT))
            .append_column("vectors", vectors_array(vectors, self._calls.dim))
            .append_column("fresh", pa.array(fresh, pa.int32()))
            .append_column("began", pa.array([began] * count, pa.float64()))
            .append_column("ended", pa.array([time.time()] * count, pa.float64()))
        )

    def _of_items(
        self,
        made: "dict[bytes, np.ndarray | RowError]",
        facts: list[dict[str, Any] | None],
        spans: list[list[Span]],
        rejects: list[dict[str, str] | None],
        fresh: list[int],
    ) -> list[list[np.ndarray]]:
        """Vectors by item; one with a chunk that failed becomes a reject, and has none."""
        stored = np.zeros(self._calls.dim, dtype=np.float32)
        vectors: list[list[np.ndarray]] = []
        for at, item in enumerate(spans):
            own = [made.get(key, stored) for _, _, key in item]
            bad = next((v for v in own if isinstance(v, RowError)), None)
            if bad is not None:
                facts[at], spans[at], rejects[at], fresh[at] = None, [], reject(bad), 0
            vectors.append([v for v in own if not isinstance(v, RowError)] if bad is None else [])
        return vectors

    def _ahead(self, rows: pa.Table) -> "Iterator[_Decoded | RowError]":
        """The items of a batch in order, decoded by threads that are some of them ahead."""
        given = rows["spans"].to_pylist() if "spans" in rows.column_names else [None] * rows.num_rows
        asked = zip(rows["uri"].to_pylist(), rows["content_hash"].to_pylist(), given, strict=True)
        with ThreadPoolExecutor(self._threads) as pool:
            running: deque[Future[_Decoded | RowError]] = deque()
            for one in asked:
                running.append(pool.submit(self._decoder.decode, *one))
                if len(running) > self._threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()


class EncodeMediaParts(EncodeMedia):
    """The same for parts of a spool, which are read where they are encoded."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        return super().__call__(pa.concat_tables([read_part(Part(**row)) for row in rows.to_pylist()]))


class _Decoder:
    """Raw media to what the encoder takes."""

    def __init__(self, job: EncodeJob) -> None:
        self._contents = Contents(job.column)
        self._preparer = open_preparer(job.spec, job.facts)
        self._windows = job.chunking if isinstance(job.chunking, WindowChunking) else None

    def decode(
        self, uri: str, content_hash: bytes, given: list[dict[str, Any]] | None
    ) -> "_Decoded | RowError":
        """One item, or why it cannot be had; `given` are the spans that another space cut it into."""
        try:
            content = self._contents.read(uri, content_hash)
            if self._windows is None:
                return self._image(content, content_hash)
            return self._audio(content, self._windows, given)
        except RowError as error:
            return error

    def _image(self, content: bytes, content_hash: bytes) -> _Decoded:
        image, facts = decode_image(content, least=self._preparer.least)
        return _Decoded(facts, [(0, 0, content_hash[:16])], iter([self._preparer.prepare(image)]))

    def _audio(self, content: bytes, windows: WindowChunking, given: list[dict[str, Any]] | None) -> _Decoded:
        samples, facts = decode_audio(content, self._preparer.rate)
        known = [(c["start"], c["end"], c["hash"]) for c in given] if given else None
        pieces = cut(samples, self._preparer.rate, windows.seconds, windows.overlap_seconds, known)
        inputs = (self._preparer.prepare(piece) for _, piece in pieces)
        return _Decoded(facts, [span for span, _ in pieces], inputs)

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
from encoders.errors import EncoderUnusable, RowError, Undecodable
from encoders.pictures import MAX_IMAGE_BYTES, decode_image
from encoders.sounds import MAX_AUDIO_BYTES, decode_audio
from encoders.spec import MediaFacts, WindowChunking
from encoders.windows import cut
from storage.schemas import MEDIA
from tasks.calls import Calls
from tasks.encoded import REJECT, EncodeJob, Span, chunks_array, reject, vectors_array
from tasks.media import Contents
from tasks.spool import Part, read_part

INPUTS_AT_ONCE = 32
"""Chunks of one call of the encoder: some 20 MB of pixels or samples."""

AHEAD_BYTES = 64 * 2**20
"""Raw bytes that are decoded ahead at a time; audio becomes up to twelve times as much."""

_LARGEST = {"image": MAX_IMAGE_BYTES, "audio": MAX_AUDIO_BYTES}


@dataclass(frozen=True)
class _Decoded:
    """A decoded item; of its `pieces`, one a span, inputs are made when they are needed."""

    facts: MediaFacts
    spans: list[Span]
    pieces: list[Any]


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
            for (start, _, key), piece in zip(found.spans, found.pieces, strict=True):
                if key in made or key in wanted or self._calls.is_stored(key):
                    continue
                one = self._decoder.prepared(piece, start)
                if isinstance(one, RowError):
                    made[key] = one
                    continue
                wanted[key] = one
                fresh[at] += 1
                if len(wanted) == INPUTS_AT_ONCE:
                    made |= self._calls.vectors(wanted)
                    wanted = {}
        made |= self._calls.vectors(wanted)
        vectors = self._of_items(made, facts, spans, rejects, fresh)
        return (
            rows.drop_columns(["spans"] if "spans" in rows.column_names else [])
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
            bad = next(((n, v) for n, v in enumerate(own) if isinstance(v, RowError)), None)
            if bad is not None:
                said = reject(bad[1])
                if len(item) > 1:
                    said["reason"] += f" (the window at {item[bad[0]][0] / 1000:.1f} s)"
                facts[at], spans[at], rejects[at], fresh[at] = None, [], said, 0
            vectors.append([v for v in own if not isinstance(v, RowError)] if bad is None else [])
        return vectors

    def _ahead(self, rows: pa.Table) -> "Iterator[_Decoded | RowError]":
        """The items of a batch in order, decoded by threads that are some of them ahead."""
        given = rows["spans"].to_pylist() if "spans" in rows.column_names else [None] * rows.num_rows
        asked = zip(*(rows[n].to_pylist() for n in ("uri", "content_hash", "bytes")), given, strict=True)
        with ThreadPoolExecutor(self._threads) as pool:
            running: deque[tuple[Future[_Decoded | RowError], int]] = deque()
            for uri, content_hash, size, spans in asked:
                while running and sum(held for _, held in running) + size > AHEAD_BYTES:
                    yield running.popleft()[0].result()
                running.append((pool.submit(self._decoder.decode, uri, content_hash, size, spans), size))
                if len(running) > self._threads:
                    yield running.popleft()[0].result()
            while running:
                yield running.popleft()[0].result()


class EncodeMediaParts(EncodeMedia):
    """The same for parts of a spool, which are read where they are encoded."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        return super().__call__(pa.concat_tables([read_part(Part(**row)) for row in rows.to_pylist()]))


class _Decoder:
    """Raw media to what the encoder takes."""

    def __init__(self, job: EncodeJob) -> None:
        self._contents = Contents(job.column)
        self._largest = _LARGEST[job.facts.modality]
        self._preparer = open_preparer(job.spec, job.facts)
        self._windows = job.chunking if isinstance(job.chunking, WindowChunking) else None

    def decode(
        self, uri: str, content_hash: bytes, size: int, given: list[dict[str, Any]] | None
    ) -> "_Decoded | RowError":
        """One item, or why it cannot be had; `given` are the spans that another space cut it into."""
        try:
            if size > self._largest:
                raise Undecodable(f"{size:,} bytes, at most {self._largest:,} are taken per item; split it")
            content = self._contents.read(uri, content_hash)
            if self._windows is None:
                return self._image(content, content_hash)
            return self._audio(content, self._windows, given)
        except RowError as error:
            return error

    def _image(self, content: bytes, content_hash: bytes) -> _Decoded:
        image, facts = decode_image(content, least=self._preparer.least)
        # small from here on, not as large as it came
        ready = self.prepared(image, 0)
        if isinstance(ready, RowError):
            raise ready
        return _Decoded(facts, [(0, 0, content_hash[:16])], [ready])

    def _audio(self, content: bytes, windows: WindowChunking, given: list[dict[str, Any]] | None) -> _Decoded:
        samples, facts = decode_audio(content, self._preparer.rate)
        known = [(c["start"], c["end"], c["hash"]) for c in given] if given else None
        cuts = cut(samples, self._preparer.rate, windows.seconds, windows.overlap_seconds, known)
        return _Decoded(facts, [span for span, _ in cuts], [piece for _, piece in cuts])

    def prepared(self, piece: Any, start: int) -> "np.ndarray | RowError":
        """The encoder's input of an image, or of a window of a sound that begins at `start` milliseconds."""
        if isinstance(piece, np.ndarray) and self._windows is None:
            return piece  # an image, made small while it was decoded
        try:
            made = self._preparer.prepare(piece)
        except (EncoderUnusable, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a processor raises, it is about this piece
            where = f" at {start / 1000:.1f} s" if self._windows else ""
            return Undecodable(f"cannot be prepared for the encoder{where}: {type(error).__name__}: {error}")
        return made.copy() if self._windows else made  # a view would keep the whole recording

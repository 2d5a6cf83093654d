"""The stream decode → chunk → encode: spooled items in, one row per item out, good or rejected.

The same two callables run in this process or as a Ray Data stream; a row that fails becomes a reject
of its stage and never takes its neighbours along.
"""

import time
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from encoders.catalog import Device, open_encoder, open_tokenizer
from encoders.chunking import Chunker, chunk_hash
from encoders.decode import decode_text
from encoders.errors import BadVector, RowError
from encoders.protocol import Encoder
from encoders.spec import Chunking, EncoderFacts, EncoderSpec
from storage.schemas import SHORT_HASH
from tasks import cluster
from tasks.errors import RunFailed
from tasks.project import Project, Resources
from tasks.spool import Part, read_part

REJECT = pa.struct([("stage", pa.string()), ("reason", pa.string()), ("error_type", pa.string())])
CHUNKS = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("hash", SHORT_HASH)]))


@dataclass(frozen=True)
class EncodeJob:
    """All that a worker needs to know. `encoding` is that of raw text, where the source knows it."""

    spec: EncoderSpec
    facts: EncoderFacts
    chunking: Chunking
    encoding: str | None


def encode_stream(
    project: Project,
    resources: Resources,
    job: EncodeJob,
    parts: tuple[Part, ...],
    stored: np.ndarray,
) -> Generator[pa.Table, None, None]:
    """Yield the spooled items with their chunks and vectors, in any order, as they are done.

    Columns: those of the spool without `content`, plus `text`, `reject` (null if good), `chunks`
    (spans and hashes), `vectors` (float32, one a chunk; zeros where `chunks.hash` is among `stored`,
    the sorted S16 hashes that need no encoding), `fresh` (how many were encoded), and the `began` and
    `ended` times (Unix seconds) of the encoder call. Raises `RunFailed` if a worker dies for good.
    """
    items = sum(part.items for part in parts)
    if not parts:
        return
    if not cluster.worth_starting(project, resources, items):
        encode = Encode(job, stored, threads=None)
        for part in parts:
            yield encode(decode_and_chunk(read_part(part), job))
        return
    with cluster.running(project, resources) as pool:
        yield from _on_ray(pool, job, parts, stored)


def _on_ray(
    pool: cluster.Pool, job: EncodeJob, parts: tuple[Part, ...], stored: np.ndarray
) -> Iterator[pa.Table]:
    import ray
    from ray.data import ActorPoolStrategy
    from ray.exceptions import RayError, RayTaskError

    # a file, which a restarted actor finds again, as it might not an object of the store
    hashes = Path(parts[0].file).with_name("stored.npy")
    np.save(hashes, stored)
    rows = [{"file": p.file, "batch": p.batch, "items": p.items} for p in parts]
    chunked = ray.data.from_items(rows, override_num_blocks=_blocks(len(rows))).map_batches(
        _read_and_chunk,
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={"job": job},
        num_cpus=cluster.CHUNK_CPUS,
    )
    with warnings.catch_warnings():
        # restarts cannot be bounded by any named parameter yet; Ray is pinned to where this works
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        stream = chunked.map_batches(
            Encode,
            batch_size=_batch_items(pool, parts),
            batch_format="pyarrow",
            fn_constructor_kwargs={
                "job": job,
                "stored": hashes,
                "threads": pool.threads,
                "device": None if pool.gpus else "cpu",
            },
            compute=ActorPoolStrategy(size=pool.actors),
            num_cpus=cluster.ACTOR_CPUS,
            num_gpus=pool.gpus,
            max_restarts=pool.max_restarts,
            max_task_retries=pool.max_restarts,
        )
    try:
        for batch in stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            if batch.num_rows:
                yield batch
    except (RayError, TimeoutError) as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception) and hasattr(
            cause, "exit_code"
        ):  # ours: it says what is wrong, and what to do
            raise cause from error
        if isinstance(error, RayTaskError):
            raise RunFailed(
                f"a worker failed: {type(cause).__name__}: {cause}. What was committed before stays"
            ) from error
        raise RunFailed(
            f"an encoder process died {pool.max_restarts + 1} times or made no progress "
            f"({type(error).__name__}); what was committed before stays, the same command goes on from there"
        ) from error


def _batch_items(pool: cluster.Pool, parts: tuple[Part, ...]) -> int:
    """Items of one call: fewer where they are long, as the parts of the spool are bounded in bytes."""
    average = max(1, sum(p.items for p in parts) // len(parts))
    return min(pool.batch_items, 8 * average if pool.gpus else average)


def _blocks(parts: int) -> int:
    """Tasks to read the parts in: one each while few, for they even out the end; several each when many.

    A task costs Ray some 20 ms, which 200,000 short texts in parts of 256 would notice.
    """
    return min(parts, max(128, parts // 16))


def _read_and_chunk(batch: pa.Table, job: EncodeJob) -> pa.Table:
    tables = [decode_and_chunk(read_part(Part(**row)), job) for row in batch.to_pylist()]
    return pa.concat_tables(tables)


@lru_cache(maxsize=1)
def _chunker(facts: EncoderFacts, chunking: Chunking) -> Chunker:
    return Chunker(chunking, open_tokenizer(facts), facts.document_prompt)


def decode_and_chunk(rows: pa.Table, job: EncodeJob) -> pa.Table:
    """Replace `content` by `text`, `chunks` and `reject`; a column `spans` says how a text is cut already."""
    chunker = _chunker(job.facts, job.chunking)
    texts: list[str | None] = []
    chunks: list[list[tuple[int, int, bytes]]] = []
    rejects: list[dict[str, str] | None] = []
    given = rows["spans"].to_pylist() if "spans" in rows.column_names else [None] * rows.num_rows
    for content, known in zip(rows["content"].to_pylist(), given, strict=True):
        try:
            text = decode_text(content, declared=job.encoding)
            spans = [(c["start"], c["end"]) for c in known] if known else chunker.spans(text)
        except RowError as error:
            texts.append(None)
            chunks.append([])
            rejects.append(_reject(error))
        else:
            texts.append(text)
            chunks.append([(a, b, chunk_hash(text[a:b])) for a, b in spans])
            rejects.append(None)
    sizes = pa.array([0 if c is None else len(c) for c in rows["content"].to_pylist()], pa.int64())
    return (
        rows.drop_columns([n for n in ("content", "spans") if n in rows.column_names])
        .append_column("bytes", sizes)
        .append_column("text", pa.array(texts, pa.large_string()))
        .append_column("chunks", _chunks_array(chunks))
        .append_column("reject", pa.array(rejects, REJECT))
    )


def _chunks_array(chunks: list[list[tuple[int, int, bytes]]]) -> pa.Array:
    flat = [c for item in chunks for c in item]
    offsets = np.cumsum([0, *map(len, chunks)]).astype(np.int32)
    fields = [
        pa.array([c[0] for c in flat], pa.int64()),
        pa.array([c[1] for c in flat], pa.int64()),
        pa.array([c[2] for c in flat], SHORT_HASH),
    ]
    values = pa.StructArray.from_arrays(fields, fields=list(CHUNKS.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=CHUNKS)


@lru_cache(maxsize=1)
def opened(
    spec: EncoderSpec, facts: EncoderFacts, *, threads: int | None = None, device: Device | None = None
) -> Encoder:
    """The loaded encoder; one is kept, for a run that needs it twice."""
    return open_encoder(spec, facts, threads=threads, device=device)


class Encode:
    """Loads the encoder once; every call encodes the chunks of some items."""

    def __init__(
        self, job: EncodeJob, stored: np.ndarray | Path, threads: int | None, device: Device | None = None
    ) -> None:
        self._stored = np.load(stored, mmap_mode="r") if isinstance(stored, Path) else stored
        self._dim = job.facts.dim
        self._encoder = opened(job.spec, job.facts, threads=threads, device=device)

    def __call__(self, rows: pa.Table) -> pa.Table:
        began = time.time()
        texts = rows["text"].to_pylist()
        rejects = rows["reject"].to_pylist()
        spans = rows["chunks"].to_pylist()
        vectors, failed, fresh = self._encode(texts, spans)
        for at, error in failed.items():
            texts[at], spans[at], rejects[at] = None, [], _reject(error)
        kept = [v for at, item in enumerate(vectors) if at not in failed for v in item]
        matrix = np.asarray(kept, dtype=np.float32).reshape(-1, self._dim)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), self._dim)
        offsets = np.cumsum([0, *map(len, spans)]).astype(np.int32)
        count = rows.num_rows
        chunks = _chunks_array([[(c["start"], c["end"], c["hash"]) for c in item] for item in spans])
        return (
            rows.drop_columns(["text", "chunks", "reject"])
            .append_column("text", pa.array(texts, pa.large_string()))
            .append_column("chunks", chunks)
            .append_column("reject", pa.array(rejects, REJECT))
            .append_column("vectors", pa.ListArray.from_arrays(pa.array(offsets), flat))
            .append_column("fresh", pa.array(fresh, pa.int32()))
            .append_column("began", pa.array([began] * count, pa.float64()))
            .append_column("ended", pa.array([time.time()] * count, pa.float64()))
        )

    def _encode(
        self, texts: list[str | None], spans: list[list[dict[str, Any]]]
    ) -> tuple[list[list[np.ndarray]], dict[int, RowError], list[int]]:
        """Vectors per item, the items that failed, and how many chunks of each were encoded."""
        zeros = np.zeros(self._dim, dtype=np.float32)
        wanted: dict[bytes, str] = {}
        fresh = [0] * len(texts)
        for at, (text, item) in enumerate(zip(texts, spans, strict=True)):
            for chunk in item:
                key = chunk["hash"]
                if text is not None and not self._is_stored(key) and key not in wanted:
                    wanted[key] = text[chunk["start"] : chunk["end"]]
                    fresh[at] += 1
        made = self._vectors(wanted)
        vectors: list[list[np.ndarray]] = []
        failed: dict[int, RowError] = {}
        for at, item in enumerate(spans):
            own = [made.get(chunk["hash"], zeros) for chunk in item]
            vectors.append([v for v in own if not isinstance(v, RowError)])
            bad = [v for v in own if isinstance(v, RowError)]
            if bad:
                failed[at], fresh[at] = bad[0], 0
        return vectors, failed, fresh

    def _is_stored(self, key: bytes) -> bool:
        place = int(np.searchsorted(self._stored, np.bytes_(key)))
        return place < len(self._stored) and self._stored[place] == np.bytes_(key)

    def _vectors(self, wanted: dict[bytes, str]) -> dict[bytes, "np.ndarray | RowError"]:
        """A vector, or why there is none, for every text; one bad text costs only itself."""
        if not wanted:
            return {}
        keys, texts = list(wanted), list(wanted.values())
        try:
            matrix = self._encoder.encode(texts)
        except Exception:  # noqa: BLE001 - whatever a model raises, it must be pinned to its text
            return {key: self._alone(text) for key, text in wanted.items()}
        return {key: _checked(vector, self._dim) for key, vector in zip(keys, matrix, strict=True)}

    def _alone(self, text: str) -> "np.ndarray | RowError":
        try:
            return _checked(self._encoder.encode([text])[0], self._dim)
        except Exception as error:  # noqa: BLE001 - becomes a reject with its type and message
            return BadVector(f"the encoder failed on this text: {type(error).__name__}: {error}")


def _checked(vector: np.ndarray, dim: int) -> "np.ndarray | RowError":
    """A usable vector, or what is wrong with it: LanceDB would take NaN and zero, and never find them."""
    if vector.shape != (dim,):
        return BadVector(f"the encoder gave a vector of shape {vector.shape}, expected ({dim},)")
    if not np.isfinite(vector).all():
        return BadVector("the encoder gave NaN or infinite numbers for this text")
    if not vector.any():
        return BadVector("the encoder gave a zero vector for this text")
    return vector


def _reject(error: RowError) -> dict[str, str]:
    return {"stage": error.stage, "reason": str(error), "error_type": type(error).__name__}


def covered(spans: list[tuple[float, float]]) -> float:
    """Seconds during which at least one of the (began, ended) spans was running."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total

"""The stream decode → chunk → encode: spooled items in, one row per item out, good or rejected.

The same callables run in this process or as a Ray Data stream; a row that fails becomes a reject
of its stage and never takes its neighbours along.
"""

import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks import cluster
from tasks.encoded import EncodeJob
from tasks.errors import RunFailed
from tasks.project import Project, Resources
from tasks.spool import Part, read_part


def encode_stream(
    project: Project,
    resources: Resources,
    job: EncodeJob,
    parts: tuple[Part, ...],
    stored: np.ndarray,
) -> Generator[pa.Table, None, None]:
    """Yield the spooled items with their chunks and vectors, in any order, as they are done.

    Columns: those of the spool without `content`, plus `text` or `media`, `reject` (null if good), `chunks`
    (spans and hashes), `vectors` (float32, one a chunk; zeros where `chunks.hash` is among `stored`,
    the sorted S16 hashes that need no encoding), `fresh` (how many were encoded), and the `began` and
    `ended` times (Unix seconds) of the encoder call. Raises `RunFailed` if a worker dies for good.
    """
    items = sum(part.items for part in parts)
    if not parts:
        return
    if not cluster.worth_starting(project, resources, items):
        yield from _here(job, parts, stored)
        return
    with cluster.running(project, resources, media=job.facts.modality != "text") as pool:
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
    ready = ray.data.from_items(rows, override_num_blocks=_blocks(len(rows)))
    ready, encoder, at_once = _stages(job, ready, pool, parts)
    with warnings.catch_warnings():
        # restarts cannot be bounded by any named parameter yet; Ray is pinned to where this works
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        stream = ready.map_batches(
            encoder,
            batch_size=at_once,
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


def _stages(job: EncodeJob, ready: Any, pool: cluster.Pool, parts: tuple[Part, ...]) -> tuple[Any, Any, int]:
    """What comes before the encoder, the class of the encoder's side, and the rows that it gets at once.

    Texts are chunked by workers of their own. Media are decoded where they are encoded: their pixels and
    samples are many times larger than what they came from, and need not travel.
    """
    if job.facts.modality != "text":
        from tasks.encode_media import EncodeMediaParts

        return ready, EncodeMediaParts, 1
    from tasks.encode_text import Encode

    chunked = ready.map_batches(
        _read_and_chunk,
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={"job": job},
        num_cpus=cluster.CHUNK_CPUS,
    )
    return chunked, Encode, _batch_items(pool, parts)


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
    from tasks.encode_text import decode_and_chunk

    return pa.concat_tables([decode_and_chunk(read_part(Part(**row)), job) for row in batch.to_pylist()])


def _here(job: EncodeJob, parts: tuple[Part, ...], stored: np.ndarray) -> Iterator[pa.Table]:
    """In this process."""
    if job.facts.modality == "text":
        from tasks.encode_text import Encode, decode_and_chunk

        of_text = Encode(job, stored, threads=None)
        for part in parts:
            yield of_text(decode_and_chunk(read_part(part), job))
        return
    from tasks.encode_media import EncodeMedia

    of_media = EncodeMedia(job, stored, threads=None)
    for part in parts:
        yield of_media(read_part(part))

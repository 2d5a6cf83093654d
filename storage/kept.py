"""What searches and probes leave beside the log: vectors that were encoded for them, and what they asked for.

Readers never commit. They add files to spools, in `_kept` and `_asked`, which an ingest or a backfill folds
into the lake and discards. Losing one costs an encoder pass and nothing more, so nothing here is synced.
"""

import io
import json
import logging
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage import arrays, places
from storage.places import Place
from storage.schemas import SHORT_HASH

logger = logging.getLogger(__name__)

KEPT_FILE = re.compile(r"_kept/([^/]+)/[0-9a-f]{32}\.parquet")
ASKED_FILE = re.compile(r"_asked/[0-9a-f]{32}\.json")
"""Paths, relative to a collection, that this module gives; the first names the space."""

SPOOLS = ("_kept", "_asked")


def kept_schema(dim: int) -> pa.Schema:
    """Schema of a file of vectors: one row a chunk, `vector` float32 of `dim` components."""
    return pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("chunk_no", pa.int32(), nullable=False),
            pa.field("chunk_hash", SHORT_HASH, nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
        ]
    )


def keep(root: Place, space_id: str, rows: pa.Table) -> None:
    """Add vectors that the encoder of a space made: one new file, which others see whole or not at all.

    `rows` has the columns of `kept_schema`. Raises `OSError` or `StorageError` if it cannot be written.
    """
    if not rows.num_rows:
        return
    schema = kept_schema(rows.schema.field("vector").type.list_size)
    buffer = io.BytesIO()
    pq.write_table(
        rows.select(schema.names).cast(schema),
        buffer,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    places.spool(_kept(root, space_id) / f"{uuid.uuid4().hex}.parquet", buffer.getvalue())


def files(root: Place, space_id: str) -> list[str]:
    """Names of the files of a space that are there now."""
    return sorted(n for n in places.names(_kept(root, space_id)) if KEPT_FILE.fullmatch(f"_kept/x/{n}"))


def rows(root: Place, space_id: str, names: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of these files, a table each; one that is gone, damaged or of another dim is passed over."""
    dim = None
    for name in names:
        table = _read(_kept(root, space_id) / name, dim)
        if table is not None:
            dim = table.schema.field("vector").type.list_size
            yield table


def discard(root: Place, space_id: str, names: Sequence[str]) -> None:
    """Remove these files: what they hold is in the lake now, or of no use."""
    for name in names:
        places.remove(_kept(root, space_id) / name)


class Kept:
    """The vectors that are kept of a space, by the hash of their chunk.

    Hashes and vectors are held as arrays, in blocks of which each is larger than the next: adding some
    copies little, and a search looks into few.
    """

    def __init__(self, root: Place, space_id: str, dim: int) -> None:
        self._root, self._space_id, self._dim = root, space_id, dim
        self._seen: set[str] = set()
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return sum(len(hashes) for hashes, _ in self._blocks)

    def refresh(self) -> None:
        """Read the files that came since. One that cannot be used is passed over, with one warning."""
        there = set(files(self._root, self._space_id))
        tables = [_read(_kept(self._root, self._space_id) / n, self._dim) for n in sorted(there - self._seen)]
        self._seen = there
        new = [table for table in tables if table is not None]
        if new:
            self._add(pa.concat_tables(new).combine_chunks())

    def find(self, hashes: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The vectors, float32 (dim,), of those of the chunks that are held, by their hash."""
        asked = list(dict.fromkeys(hashes))
        wanted = np.array(asked, "S16")
        found: dict[bytes, np.ndarray] = {}
        for held, vectors in self._blocks:
            at = np.searchsorted(held, wanted)
            at[at == len(held)] = 0
            for place in np.flatnonzero(held[at] == wanted).tolist():
                found.setdefault(asked[place], vectors[at[place]])
        return found

    def _add(self, table: pa.Table) -> None:
        hashes = arrays.to_numpy(_only(table["chunk_hash"])).view("S16")
        vectors = arrays.to_numpy(_only(table["vector"]).flatten()).reshape(-1, self._dim)
        while self._blocks and len(self._blocks[-1][0]) <= len(hashes):
            before, theirs = self._blocks.pop()
            hashes, vectors = np.concatenate([before, hashes]), np.concatenate([theirs, vectors])
        hashes, first = np.unique(hashes, return_index=True)
        self._blocks.append((hashes, vectors[first]))


def note(root: Place, item_ids: Sequence[str]) -> None:
    """Note that these items were candidates of a search. Raises like `keep`."""
    if item_ids:
        content = json.dumps(list(item_ids)).encode()
        places.spool(root / "_asked" / f"{uuid.uuid4().hex}.json", content)


def noted(root: Place) -> tuple[dict[str, int], list[str]]:
    """How often each item was a candidate, and the names of the files that say so.

    A file that cannot be read counts for nothing, with a warning, and is named all the same.
    """
    names = sorted(n for n in places.names(root / "_asked") if ASKED_FILE.fullmatch(f"_asked/{n}"))
    counts: Counter[str] = Counter()
    for name in names:
        path = root / "_asked" / name
        try:
            found = json.loads(places.read(path))
            counts.update([item_id for item_id in found if isinstance(item_id, str)])
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError) as error:
            logger.warning("%s cannot be read (%s) and is passed over", path, error)
    return dict(counts), names


def forget(root: Place, names: Sequence[str]) -> None:
    """Remove these notes."""
    for name in names:
        places.remove(root / "_asked" / name)


def _kept(root: Place, space_id: str) -> Place:
    return root / "_kept" / space_id


def _read(path: Place, dim: int | None) -> pa.Table | None:
    """The rows of a file; None if it is gone, or, with a warning, if it is not what `keep` writes."""
    try:
        content = pa.BufferReader(places.read(path))
        table = pq.ParquetFile(content, page_checksum_verification=True).read()
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        logger.warning("%s cannot be read (%s) and is passed over", path, error)
        return None
    wrong = _wrong(table, dim)
    if wrong:
        logger.warning("%s %s and is passed over", path, wrong)
        return None
    return table


def _wrong(table: pa.Table, dim: int | None) -> str:
    """What a table of kept vectors should not be; empty if all is well."""
    kind = table.schema.field("vector").type if "vector" in table.schema.names else pa.null()
    if not pa.types.is_fixed_size_list(kind) or table.schema != kept_schema(kind.list_size):
        return "has other columns than kept vectors have"
    if dim is not None and kind.list_size != dim:
        return f"has vectors of {kind.list_size} dims, the space has {dim},"
    return "lacks values" if any(column.null_count for column in table.columns) else ""


def _only(column: pa.ChunkedArray) -> pa.Array:
    """The one array of a column that was combined."""
    return column.chunk(0) if column.num_chunks else pa.nulls(0, column.type)

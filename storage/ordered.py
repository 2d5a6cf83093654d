"""Rows in the order of their keys, however many, and items beside their chunks; memory stays bounded.

DuckDB sorts, and spills what does not fit. One query sorts or joins, never both at once: together they
hold more than their limit (3,000,000 × 384 floats fail at 1 GB, where each alone needs 1.2 GB in all).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage import views
from storage.errors import UnreadableTable
from storage.places import Place

BATCH = 16_384
"""Rows of one batch: 25 MB of 384 floats."""

_MEMORY = "1GB"


@contextmanager
def sorting(place: Place, folder: Path) -> Iterator[Any]:
    """A DuckDB connection that can read files of `place`, and spills into the local `folder`."""
    connection = views.connect(place)
    try:
        spill = str(folder).replace("'", "''")
        connection.execute(f"SET memory_limit = '{_MEMORY}'; SET temp_directory = '{spill}'")
        connection.execute("SET preserve_insertion_order = false")
        yield connection
    finally:
        connection.close()


def stream(connection: Any, query: str, rows: int) -> Iterator[pa.Table]:
    """The result of a query, some `rows` at a time.

    Not by `execute`, whose result would first be copied as a whole.
    """
    for batch in connection.sql(query).to_arrow_reader(rows):
        yield pa.Table.from_batches([batch])


def whole_items(chunks: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Sorted chunks in tables of at most `rows`, or one item that alone has more; no item is cut."""
    held: list[pa.Table] = []
    count = 0
    for piece in chunks:
        if not piece.num_rows:
            continue
        held.append(piece)
        count += piece.num_rows
        if count <= rows:
            continue
        table = pa.concat_tables(held).combine_chunks()
        starts = _starts(table["item_id"])
        done = 0
        while table.num_rows - done > rows:
            later = [s for s in starts if done < s <= done + rows] or [s for s in starts if s > done][:1]
            if not later:
                break  # all that is left is one item, which may go on
            yield table.slice(done, later[-1] - done)
            done = later[-1]
        held, count = [table.slice(done)], table.num_rows - done
    if count:
        yield pa.concat_tables(held).combine_chunks()


def aligned(
    items: Iterator[pa.Table], chunks: Iterator[pa.Table], rows: int
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Items with all their chunks, about `rows` chunks at a time; both streams ascend by `item_id`.

    Every item comes once, even if it has no chunk. Raises `UnreadableTable` if a stream is not in order,
    or a chunk is of no item.
    """
    held: pa.Table | None = None
    later = _ascending(items)
    for some in whole_items(_ascending(chunks), rows):
        last = some["item_id"][-1].as_py()
        while held is None or not held.num_rows or held["item_id"][-1].as_py() < last:
            more = next(later, None)
            if more is None:
                break
            held = more if held is None else pa.concat_tables([held, more])
        upto = 0 if held is None else pc.sum(pc.less_equal(held["item_id"], last)).as_py() or 0
        mine = None if held is None else held.slice(0, upto)
        unknown = (
            some["item_id"]
            if mine is None
            else some["item_id"].filter(
                pc.invert(pc.is_in(some["item_id"], value_set=mine["item_id"].combine_chunks()))
            )
        )
        if mine is None or len(unknown):
            raise UnreadableTable(
                f"chunks of item {unknown[0].as_py()!r} have no item: the export is not whole; export again"
            )
        yield mine, some
        held = held.slice(upto) if held is not None else None
    for rest in (held, *later):
        if rest is not None and rest.num_rows:
            yield rest, _none_of(rest)


def _none_of(items: pa.Table) -> pa.Table:
    """No chunks."""
    return items.select(["item_id"]).slice(0, 0)


def _starts(ids: pa.ChunkedArray) -> list[int]:
    """Where each item begins, in sorted chunks."""
    ends = pc.run_end_encode(ids.combine_chunks()).run_ends.to_pylist()
    return [0, *ends[:-1]]


def _ascending(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    last = ""
    for table in tables:
        if not table.num_rows:
            continue
        ids = table["item_id"]
        if ids.null_count or ids[0].as_py() < last or not _is_sorted(ids.combine_chunks()):
            raise UnreadableTable("the rows are not in the order that an export writes; export again")
        last = ids[-1].as_py()
        yield table


def _is_sorted(ids: pa.Array) -> bool:
    return len(ids) < 2 or bool(pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py())

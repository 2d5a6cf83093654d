"""The rows of an index: of a window that is being committed, and of a whole space, made anew from Parquet."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from storage import views
from storage.commits import IndexVersion
from storage.places import Place
from storage.schemas import index_schema
from storage.snapshot import Snapshot
from storage.vectors import Index, generation, table_name, tables
from storage.views import Bound

_BATCH = 16_384


def index_table(items: pa.Table, vectors: pa.Table, *, dim: int, attributes: pa.StructType) -> pa.Table:
    """LanceDB rows of these chunks: their vectors, with text, uri and attributes of their items."""
    row_of = {item_id: row for row, item_id in enumerate(items["item_id"].to_pylist())}
    ids = vectors["item_id"].to_pylist()
    parents = pa.array([row_of[i] for i in ids], pa.int64())
    texts = items["text"].to_pylist()
    spans = zip(
        parents.to_pylist(),
        vectors["chunk_start"].to_pylist(),
        vectors["chunk_end"].to_pylist(),
        strict=True,
    )
    columns = {name: vectors[name] for name in ("item_id", "chunk_no", "chunk_start", "chunk_end", "origin")}
    columns["uri"] = items["uri"].take(parents)
    chunks = [None if texts[row] is None else texts[row][a:b] for row, a, b in spans]
    columns["text"] = pa.array(chunks, pa.string())
    if attributes.num_fields:
        struct = items["attributes"].combine_chunks().take(parents)
        columns |= dict(zip((f.name for f in attributes), struct.flatten(), strict=True))
    columns["vector"] = vectors["vector"]
    schema = index_schema(dim, attributes)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def build(lake: Place, snapshot: Snapshot, space_id: str) -> IndexVersion:
    """Make the next generation of a space's index from the Parquet files of a snapshot; durable on return.

    No record names it yet. Memory does not grow with the collection.
    """
    name = next_table(lake, snapshot, space_id)
    schema = columns_of(snapshot, space_id)
    return Index(lake, name).build(schema, _rows(lake, snapshot, space_id, schema, None))


def next_table(lake: Place, snapshot: Snapshot, space_id: str) -> str:
    """The name of a space's next generation: one that no version has ever named, nor a dead writer used."""
    first = table_name(snapshot.root.name, space_id)
    of_space = first[: -len("1")]
    head = [index.table for index in snapshot.head.indexes.values()] if snapshot.head else []
    taken = [generation(t) for t in (*tables(lake), *head) if t.startswith(of_space)]
    # no version so far can have named a generation beyond its own number, but for those just counted
    return table_name(snapshot.root.name, space_id, max(snapshot.version, *taken, 0) + 1)


def rows_of(lake: Place, snapshot: Snapshot, space_id: str, item_ids: Sequence[str]) -> pa.Table:
    """The index rows of some items, as the snapshot's files have them."""
    schema = columns_of(snapshot, space_id)
    return pa.Table.from_batches(_rows(lake, snapshot, space_id, schema, item_ids), schema)


def columns_of(snapshot: Snapshot, space_id: str) -> pa.Schema:
    """The schema that the index of a space has at a snapshot."""
    head = snapshot.head
    if head is None:
        raise ValueError(f"{snapshot.root} is empty")
    dim = next(r.dim for r in head.releases if r.space_id == space_id)
    return index_schema(dim, snapshot.attributes())


def _rows(
    lake: Place, snapshot: Snapshot, space_id: str, schema: pa.Schema, item_ids: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    if snapshot.head is None:
        return
    one = Bound(snapshot.root.name, snapshot, snapshot.head)
    connection = views.connect(lake)
    try:
        connection.execute("SET preserve_insertion_order = false")
        only = None
        if item_ids is not None:
            views.create(connection, "_lake.chosen", pa.table({"item_id": pa.array(item_ids, pa.string())}))
            only = "_lake.chosen"
        query = views.index_rows(connection, one, space_id, only)
        for batch in connection.sql(query).to_arrow_reader(_BATCH):
            table = pa.Table.from_batches([batch]).select(schema.names)
            yield from table.cast(schema).combine_chunks().to_batches()
    finally:
        connection.close()

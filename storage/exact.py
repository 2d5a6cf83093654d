"""Exact search over the Parquet files of a snapshot: for the past, and while an index cannot be read."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from storage import views
from storage.places import Place
from storage.snapshot import Snapshot
from storage.vectors import Hits
from storage.views import Bound

if TYPE_CHECKING:
    from storage.filters import Filter


def nearest(
    lake: Place, snapshot: Snapshot, space_id: str, vector: np.ndarray, limit: int, where: "Filter | None"
) -> Hits:
    """The `limit` chunks of a space with the highest cosine to `vector` (float32, (dim,)), best first.

    Only those that `where` admits. Columns are those of an index; memory does not grow with the collection.
    """
    if snapshot.head is None:
        raise ValueError(f"{snapshot.root} is empty")
    connection = views.connect(lake)
    try:
        rows = views.index_rows(connection, Bound(snapshot.root.name, snapshot, snapshot.head), space_id)
        admitted = f"WHERE {where.duckdb}" if where else ""
        found: pa.Table = connection.sql(
            f"SELECT * EXCLUDE (vector), array_cosine_similarity(vector, ?::FLOAT[{len(vector)}]) AS _score "
            f"FROM ({rows}) {admitted} ORDER BY _score DESC LIMIT {int(limit)}",
            params=[vector.astype(np.float32).tolist()],
        ).to_arrow_table()
    finally:
        connection.close()
    return Hits(found.drop_columns(["_score"]), found["_score"].to_numpy())

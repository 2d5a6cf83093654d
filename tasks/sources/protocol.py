"""What every source yields, whether it lists everything or only what changed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

BATCH_ITEMS = 4_096
BATCH_BYTES = 16 * 2**20
"""A batch ends at whichever comes first, so that memory does not depend on the source."""


@dataclass(frozen=True)
class PullReject:
    """Something of the source that gave no row. `item_id` is None where it cannot even be identified."""

    item_id: str | None
    uri: str
    reason: str
    error_type: str


@dataclass(frozen=True)
class Pulled:
    """One batch of a pull.

    `rows` has the columns `item_id`, `uri`, `content` (large_binary), `row` (int64, the position in
    the source that messages name) and, if the source has any, `attributes` (a struct). `deleted`
    are tombstones, `offset` is where a later pull may go on. `complete` on the last batch says that
    everything was listed, so that what was not seen is gone.
    """

    rows: pa.Table
    rejects: tuple[PullReject, ...] = ()
    deleted: tuple[str, ...] = ()
    offset: str | None = None
    complete: bool = False


class Source(Protocol):
    """A place that items are pulled from."""

    encoding: str | None
    """Encoding of text content where the source knows it; None: to be found out."""

    where: str
    """What to call the source in a message: a path, a table, a topic."""

    def pull(self, since: str | None) -> Iterator[Pulled]:
        """Yield batches from offset `since` on (None: from the start). Raises `SourceUnusable`."""
        ...


def rows_table(
    ids: pa.Array,
    uris: pa.Array,
    contents: pa.Array,
    positions: pa.Array,
    attributes: pa.Array | None,
) -> pa.Table:
    """The `rows` of a `Pulled`."""
    columns = {
        "item_id": ids,
        "uri": uris,
        "content": contents,
        "row": positions,
    }
    if attributes is not None:
        columns["attributes"] = attributes
    return pa.table(columns)

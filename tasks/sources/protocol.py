"""What every source yields, whether it lists everything or only what changed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pyarrow as pa

from storage import arrays
from storage.schemas import CONTENT_HASH

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

    `rows` has the columns `item_id`, `uri`, `row` (int64, the position in the source that messages
    name) and, if the source has any, `attributes` (a struct). Of texts it has the `content`
    (large_binary); of images and audio only `content_hash` (SHA-256) and `bytes` (int64), for their
    content is read from `uri` where it is decoded. `deleted`
    are tombstones, `offset` is where a later pull may go on. `complete` on the last batch says that
    everything was listed, so that what was not seen is gone.
    """

    rows: pa.Table
    rejects: tuple[PullReject, ...] = ()
    deleted: tuple[str, ...] = ()
    offset: str | None = None
    complete: bool = False


class Digest(NamedTuple):
    """What is held of a raw image or sound: its SHA-256 (raw) and its size."""

    sha256: bytes
    bytes: int


class MediaRow(NamedTuple):
    """An image or a sound of a source."""

    item_id: str
    uri: str
    digest: Digest


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


def media_table(rows: list[MediaRow], positions: pa.Array, attributes: pa.Array | None) -> pa.Table:
    """The `rows` of a `Pulled` of images or audio."""
    columns = {
        "item_id": arrays.strings([r.item_id for r in rows]),
        "uri": arrays.strings([r.uri for r in rows]),
        "row": positions,
        "content_hash": pa.array([r.digest.sha256 for r in rows], CONTENT_HASH),
        "bytes": pa.array([r.digest.bytes for r in rows], pa.int64()),
    }
    if attributes is not None:
        columns["attributes"] = attributes
    return pa.table(columns)

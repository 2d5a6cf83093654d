"""Images or audio of a table: files that its rows name, or bytes in its cells."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage import arrays, tables
from tasks.errors import SourceUnusable
from tasks.media import cell
from tasks.project import TableSource
from tasks.sources.hashing import MEDIA_AT_ONCE, digest, hashing
from tasks.sources.protocol import Digest, MediaRow, Pulled, PullReject, media_table
from tasks.sources.tables import Table

_CELLS = 64
"""Rows of bytes that are held at once."""


class MediaTable:
    """Streams the file; what a row names must lie in the source's `root`, links followed."""

    encoding: str | None = None

    def __init__(self, spec: TableSource, attributes: dict[str, pa.DataType]) -> None:
        self._spec, self._column = spec, spec.media or ""
        self._attributes = attributes
        self._root = spec.root or spec.path.parent
        self.where = str(spec.path)

    def pull(self, since: str | None) -> Iterator[Pulled]:
        in_cells = tables.is_binary(self._spec.path, self._column)
        if not in_cells and not self._root.is_dir():
            raise SourceUnusable(
                f"source.root {self._root} is no folder; expected the one that the files of column "
                f"{self._column!r} lie in. Correct `root:` in evervec.yaml, or mount it"
            )
        at_once = _CELLS if in_cells else MEDIA_AT_ONCE
        table = Table(self._spec, self._column, self._attributes, batch_rows=at_once)
        digested = self._of_cell if in_cells else self._of_file
        with hashing() as pool:
            for pulled in table.pull(since):
                names = zip(*(pulled.rows[n].to_pylist() for n in ("item_id", "content", "row")), strict=True)
                found = list(pool.map(lambda row: digested(*row), names))
                yield _pulled(pulled, found)

    def _of_cell(self, item_id: str, content: bytes | None, row: int) -> MediaRow | PullReject:
        uri = cell(self._spec.path, row)
        if content is None:
            return PullReject(item_id, uri, "the cell is empty", "EmptyCell")
        return MediaRow(item_id, uri, Digest(hashlib.sha256(content).digest(), len(content)))

    def _of_file(self, item_id: str, content: bytes | None, row: int) -> MediaRow | PullReject:
        if not content:
            return PullReject(item_id, cell(self._spec.path, row), "no file is named", "EmptyCell")
        named = content.decode("utf-8", "backslashreplace")
        path = self._root / named
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(self._root.resolve()):
                raise PermissionError(f"lies outside of {self._root}, the `root:` of the source")
            if not real.is_file():
                raise OSError("neither a file nor a link to one")
            with real.open("rb") as file:
                return MediaRow(item_id, str(path), digest(file))
        except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a NUL in the name
            reason = getattr(error, "strerror", None) or str(error)
            return PullReject(item_id, str(Path(self._root, named)), reason, type(error).__name__)


def _pulled(given: Pulled, found: list[MediaRow | PullReject]) -> Pulled:
    """The rows that have media, and what became of the others."""
    good = np.array([not isinstance(f, PullReject) for f in found], dtype=bool)
    rejects = tuple(f for f in found if isinstance(f, PullReject))
    rows = given.rows.filter(arrays.from_numpy(good, pa.bool_())) if rejects else given.rows
    attributes = rows["attributes"].combine_chunks() if "attributes" in rows.column_names else None
    told = [f for f in found if not isinstance(f, PullReject)]
    table = media_table(told, rows["row"].combine_chunks(), attributes)
    return Pulled(table, (*given.rejects, *rejects), complete=given.complete)

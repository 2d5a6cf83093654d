"""Where the bytes of an image or a sound lie, and how a worker gets them: a file, or a cell of a table."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from encoders.errors import Unreadable
from storage import tables

_CELLS_AT_ONCE = 16
_FAR = 256
"""Rows that are rather read over than looked up anew."""

_ROW = "#row="


def cell(table: Path, row: int) -> str:
    """The uri of a cell: the table, and the row, counted from 1."""
    return f"{table}{_ROW}{row}"


class Contents:
    """Reads raw media by uri; `column` names that of the cells where the source is a table of bytes.

    Several threads may read at once. Raises `Unreadable` if the content is not there any more, or not
    what was listed: its SHA-256 is checked, so that what is encoded is what the item says it is.
    """

    def __init__(self, column: str | None) -> None:
        self._cells = _Cells(column) if column is not None else None

    def read(self, uri: str, content_hash: bytes) -> bytes:
        content = self.raw(uri)
        if hashlib.sha256(content).digest() != content_hash:
            raise Unreadable("is not what it was when it was listed; the next ingest takes it as it is now")
        return content

    def raw(self, uri: str) -> bytes:
        """What lies there now."""
        try:
            if self._cells and _ROW in uri:
                return self._cells.read(uri)
            return Path(uri).read_bytes()  # also of a table of bytes, from the time before it was one
        except OSError as error:
            raise Unreadable(f"cannot be read any more ({error.strerror or error})") from None


class _Cells:
    """Cells of Parquet files, a few at a time: rows are mostly asked for in ascending order."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._ahead: Iterator[tuple[int, pa.Array]] = iter(())
        self._first, self._held = 1, pa.array([], pa.large_binary())

    def read(self, uri: str) -> bytes:
        path, _, number = uri.rpartition(_ROW)
        row = int(number)
        with self._lock:
            if Path(path) != self._path or not 0 <= row - self._first <= len(self._held) + _FAR:
                self._path = Path(path)
                self._ahead = tables.cells(self._path, self._column, row, _CELLS_AT_ONCE)
                self._first, self._held = row, pa.array([], pa.large_binary())
            while row >= self._first + len(self._held):
                self._first, self._held = next(self._ahead, (row, None))
                if self._held is None:
                    self._path, self._held = None, pa.array([], pa.large_binary())
                    raise Unreadable(f"row {row} is not in the table any more")
            value = self._held[row - self._first].as_py()
        if value is None:
            raise Unreadable("the cell is empty now")
        return bytes(value)

"""Vectors that were made elsewhere, and exports: their files, and a place to put checked rows aside.

Rows are put aside on disk so that a table is read once, whatever happens to it meanwhile, and so that
nothing is committed before all of it was looked at.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage import ordered, parquet
from storage.errors import UnreadableTable
from storage.export import CHUNKS, ITEMS
from storage.parquet import DataFile

_SUFFIXES = (".parquet", ".jsonl", ".ndjson")
_PEEKED = 100


def is_export(path: Path) -> bool:
    """Whether a folder is what `storage.export` writes as Parquet."""
    return (path / ITEMS).is_dir() and (path / CHUNKS).is_dir()


def files(path: Path) -> list[Path]:
    """The table itself, or the Parquet files directly in a folder. Raises `UnreadableTable`."""
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() == ".parquet" and p.is_file())
        if not found:
            raise UnreadableTable(f"{path} holds no .parquet file; give a folder that does, or one file")
        return found
    if path.suffix.lower() not in _SUFFIXES:
        raise UnreadableTable(f"{path}: expected a file ending in {', '.join(_SUFFIXES)}, or a folder")
    if not path.is_file():
        raise UnreadableTable(f"there is no {path}")
    return [path]


def columns(file: Path) -> list[str]:
    """Names of a file's columns; of a JSONL file the keys of its first lines. Raises `UnreadableTable`."""
    if file.suffix.lower() == ".parquet":
        return list(_schema(file).names)
    keys: dict[str, None] = {}
    with file.open("rb") as lines:
        for line in islice(lines, _PEEKED):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue  # told as a broken row when it is read
            keys.update(dict.fromkeys(row) if isinstance(row, dict) else {})
    return list(keys)


def require_columns(file: Path, wanted: Sequence[str]) -> None:
    """Raise `UnreadableTable`, naming the columns that there are, unless the file has all `wanted`."""
    present = columns(file)
    missing = [name for name in wanted if name not in present]
    if missing and (present or file.suffix.lower() == ".parquet"):
        raise UnreadableTable(
            f"{file} has no column {', '.join(map(repr, missing))}; it has {', '.join(present) or 'none'}"
        )


def schema(path: Path) -> pa.Schema:
    """The columns of the items of an export. Raises `UnreadableTable`."""
    parts = files(path / ITEMS)
    return _schema(parts[0])


def export_items(path: Path, rows: int = ordered.BATCH // 8) -> Iterator[pa.Table]:
    """The items of an export, in its order. Raises `UnreadableTable`."""
    for part in files(path / ITEMS):
        try:
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(rows):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise UnreadableTable(f"{part} is not a readable Parquet file: {error}") from error


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise UnreadableTable(f"{file} is not a readable Parquet file: {error}") from error


class Aside:
    """Good rows, and apart from them those that were refused, in Parquet files of a local folder.

    Good rows have `item_id`, `place` (how messages call the row), `chunk` (a value to order by) and
    whatever else; refused ones `item_id` (null where unknown), `place`, and whatever else. Use as a
    context manager to write; read when that is over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, parquet.Writer] = {}
        self._files: dict[str, DataFile] = {}
        self._schemas: dict[str, pa.Schema] = {}

    def __enter__(self) -> "Aside":
        return self

    def write(self, kind: str, rows: pa.Table) -> None:
        """Append rows to those of a kind, `good` or `refused`."""
        if kind not in self._writers:
            self._writers[kind] = parquet.Writer(self._folder, kind, rows.schema)
            self._schemas[kind] = rows.schema
        self._writers[kind].write(rows.cast(self._schemas[kind]))

    def __exit__(self, failed: type[BaseException] | None, *rest: object) -> None:
        for kind, writer in self._writers.items():
            writer.__exit__(failed, *rest)
            if failed is None:
                self._files[kind] = writer.written()

    def count(self, kind: str) -> int:
        """How many rows of a kind there are."""
        return self._files[kind].rows if kind in self._files else 0

    def rows(self, kind: str) -> Iterator[pa.Table]:
        """The rows of a kind, in the order in which they came."""
        if kind in self._files:
            yield from parquet.batches(self._folder, self._files[kind], self._schemas[kind].names)

    def sorted(self, kind: str) -> Iterator[pa.Table]:
        """The rows of a kind ordered by `item_id` and `chunk`."""
        if kind not in self._files:
            return
        wanted = self._schemas[kind]
        with self._connection() as connection:
            query = f"SELECT * FROM {self._relation(kind)} ORDER BY item_id, chunk, place"
            for table in ordered.stream(connection, query, ordered.BATCH):
                yield table.select(wanted.names).cast(wanted)

    def twice(self, keys: Sequence[str], most: int) -> tuple[int, dict[str, list[str]]]:
        """How many keys (`item_id`, or that with `chunk`) came more than once; the places of `most`."""
        if "good" not in self._files:
            return 0, {}
        named = ", ".join(keys)
        parts = [f"SELECT {named}, place FROM {self._relation('good')}"]
        if list(keys) == ["item_id"] and "refused" in self._files:
            parts.append(f"SELECT item_id, place FROM {self._relation('refused')} WHERE item_id IS NOT NULL")
        every = " UNION ALL ".join(parts)
        twice = f"SELECT {named}, count(*) AS n FROM ({every}) GROUP BY ALL HAVING n > 1"
        with self._connection() as connection:
            count = connection.sql(f"SELECT count(*) FROM ({twice})").fetchall()[0][0]
            found = connection.sql(
                f"SELECT item_id, list(place ORDER BY place) FROM ({every}) "
                f"SEMI JOIN (SELECT {named} FROM ({twice}) ORDER BY ALL LIMIT {most}) "
                f"USING ({named}) GROUP BY {named} ORDER BY item_id"
            ).fetchall()
        return count, dict(found)

    def _connection(self) -> Any:
        return ordered.sorting(self._folder, self._folder / "spilled")

    def _relation(self, kind: str) -> str:
        path = str(self._folder / self._files[kind].path).replace("'", "''")
        return f"read_parquet('{path}')"

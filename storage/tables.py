"""Foreign tables: Parquet, CSV and JSONL files in, Arrow batches out, broken rows apart."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from storage import arrays
from storage.errors import UnreadableTable

SUFFIXES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_CSV_BLOCK = 4 * 2**20
_CSV_LARGEST_BLOCK = 2**28
_NAMED_KEYS = 50


@dataclass(frozen=True)
class BrokenRow:
    """A row that could not be read: its number in the file (from 1) and why."""

    row: int
    reason: str


@dataclass(frozen=True)
class Batch:
    """Some rows of a table. `numbers` are their numbers in the file, from 1."""

    table: pa.Table
    numbers: pa.Array
    broken: tuple[BrokenRow, ...] = ()


def scan(path: Path, columns: Sequence[str], binary: Sequence[str], batch_rows: int) -> Iterator[Batch]:
    """Yield the `columns` of a table in batches; memory does not grow with the file.

    Columns named in `binary` come as they are in the file, as large_binary (text unchecked, null
    where there is none). Raises `UnreadableTable` if the file, its format or a column is missing.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise UnreadableTable(f"{path}: expected a file ending in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UnreadableTable(f"{path} does not exist; correct `path:` in evervec.yaml")
    reader = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}[kind]
    yield from reader(path, list(columns), set(binary), batch_rows)


def _parquet(path: Path, columns: list[str], binary: set[str], batch_rows: int) -> Iterator[Batch]:
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            present = file.schema_arrow.names
            _require(path, [c if c in present else c.partition(".")[0] for c in columns], present)
            first = 1
            for batch in file.iter_batches(batch_rows, columns=columns):
                found = pa.Table.from_batches([batch])
                table = pa.table({name: _field(found, name) for name in columns})
                numbers = arrays.from_numpy(np.arange(first, first + table.num_rows), pa.int64())
                first += table.num_rows
                yield Batch(_as_binary(path, table, binary), numbers)
    except (pa.ArrowException, OSError) as error:
        raise UnreadableTable(f"{path} is not a readable Parquet file: {error}") from error


def cells(path: Path, column: str, first: int, at_once: int) -> Iterator[tuple[int, pa.Array]]:
    """Values of a binary column, `at_once` at a time, with the number of their first row.

    They come from about row `first` (from 1) on: whole row groups before it are skipped. Raises `OSError`
    if the file cannot be read any more.
    """
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            row, groups = 1, list(range(file.num_row_groups))
            while groups and row + file.metadata.row_group(groups[0]).num_rows <= first:
                row += file.metadata.row_group(groups.pop(0)).num_rows
            for batch in file.iter_batches(at_once, row_groups=groups, columns=[column]):
                values = _field(pa.Table.from_batches([batch]), column).combine_chunks()
                begin, row = row, row + len(values)
                if row > first:
                    yield begin, values
    except pa.ArrowException as error:
        raise OSError(f"not a readable Parquet file: {error}") from error


def is_binary(path: Path, column: str) -> bool:
    """Whether a column holds bytes, not texts; only Parquet files have such columns."""
    if SUFFIXES.get(path.suffix.lower()) != "parquet" or not path.is_file():
        return False
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            empty = file.schema_arrow.empty_table()
    except (pa.ArrowException, OSError) as error:
        raise UnreadableTable(f"{path} is not a readable Parquet file: {error}") from error
    _require(path, [column.partition(".")[0]], empty.column_names)
    kind = _field(empty, column).type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _field(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column, or a field `struct.field` of one."""
    if name in table.column_names:
        return table[name]
    outer, _, inner = name.partition(".")
    struct = table[outer]
    if not pa.types.is_struct(struct.type) or inner not in struct.type.names:
        raise UnreadableTable(f"column {outer!r} is {struct.type} and has no field {inner!r}")
    return pc.struct_field(struct, inner)


def _as_binary(path: Path, table: pa.Table, binary: set[str]) -> pa.Table:
    for at, name in enumerate(table.column_names):
        if name not in binary:
            continue
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_integer(column.type):
            column = column.cast(pa.string())
        if not _is_text(column.type):
            raise UnreadableTable(
                f"{path}: column {name!r} is {column.type}, expected text (or an integer id)"
            )
        table = table.set_column(at, name, column.cast(pa.large_binary()))
    return table


def _is_text(kind: pa.DataType) -> bool:
    texts = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.null())
    return kind in texts


def _csv(path: Path, columns: list[str], binary: set[str], batch_rows: int) -> Iterator[Batch]:
    """Every column is read as bytes: one bad value must not fail the file. Types are the source's matter."""
    _require(path, columns, _csv_header(path))
    block, done = _CSV_BLOCK, 0
    while True:
        try:
            for batch in _csv_blocks(path, columns, binary, block):
                fresh = [n > done for n in batch.numbers.to_pylist()]
                broken = tuple(b for b in batch.broken if b.row > done)
                if any(fresh) or broken:
                    mask = pa.array(fresh, pa.bool_())
                    yield Batch(batch.table.filter(mask), batch.numbers.filter(mask), broken)
                done = max([done, *(b.row for b in broken), *batch.numbers.to_pylist()[-1:]])
            return
        except pa.ArrowException as error:
            if "straddl" in str(error) and block < _CSV_LARGEST_BLOCK:
                block *= 8  # a row longer than the block: go on from the row after the last
                continue
            raise UnreadableTable(f"{path} is not a readable CSV file: {error}") from error


def _csv_blocks(path: Path, columns: list[str], binary: set[str], block_size: int) -> Iterator[Batch]:
    broken: list[BrokenRow] = []
    skipped: set[int] = set()

    def note(row: Any) -> str:
        reason = f"{row.actual_columns} values where the header has {row.expected_columns}"
        broken.append(BrokenRow((row.number or 1) - 1, reason))
        skipped.add(broken[-1].row)
        return "skip"

    reader = pacsv.open_csv(
        path,
        read_options=pacsv.ReadOptions(use_threads=False, block_size=block_size),
        parse_options=pacsv.ParseOptions(
            delimiter="\t" if path.suffix.lower() == ".tsv" else ",",
            newlines_in_values=True,
            invalid_row_handler=note,
        ),
        convert_options=pacsv.ConvertOptions(
            include_columns=columns,
            column_types={c: pa.large_binary() for c in columns},
            check_utf8=False,
        ),
    )
    row = 1
    for block in reader:
        numbers: list[int] = []
        while len(numbers) < block.num_rows:
            if row not in skipped:
                numbers.append(row)
            row += 1
        table = pa.table({c: block[c] if c in binary else _as_string(block[c]) for c in columns})
        # the reader is ahead by a block: what broke there is told with that block
        told = tuple(b for b in broken if b.row < row)
        broken[:] = [b for b in broken if b.row >= row]
        yield Batch(table, pa.array(numbers, pa.int64()), told)
    if broken:
        empty = pa.table({c: pa.array([], pa.large_binary()) for c in columns})
        yield Batch(empty, pa.array([], pa.int64()), tuple(broken))


def _csv_header(path: Path) -> list[str]:
    import csv

    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","), [])


def _jsonl(path: Path, columns: list[str], binary: set[str], batch_rows: int) -> Iterator[Batch]:
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    broken: list[BrokenRow] = []
    seen: dict[str, None] = {}  # in the order of the file
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                broken.append(BrokenRow(number, f"not a JSON value: {error}"))
                continue
            if not isinstance(row, dict):
                broken.append(BrokenRow(number, f"a JSON {type(row).__name__}, expected an object"))
                continue
            if len(seen) < _NAMED_KEYS:
                seen.update(dict.fromkeys(row))
            seen.update(dict.fromkeys(c for c in columns if c in row))
            rows.append(row)
            numbers.append(number)
            if len(rows) >= batch_rows:
                _require(path, [c for c in columns if c in binary], list(seen))
                yield _json_batch(rows, numbers, broken, columns, binary)
                rows, numbers, broken = [], [], []
    if seen:
        _require(path, columns, list(seen))
    if rows or broken:
        yield _json_batch(rows, numbers, broken, columns, binary)


def _json_batch(
    rows: list[dict[str, Any]],
    numbers: list[int],
    broken: list[BrokenRow],
    columns: list[str],
    binary: set[str],
) -> Batch:
    made = {}
    for name in columns:
        values = [row.get(name) for row in rows]
        if name in binary:
            made[name] = pa.array([_encoded(v) for v in values], pa.large_binary())
        else:
            made[name] = _inferred(values)
    return Batch(pa.table(made), pa.array(numbers, pa.int64()), tuple(broken))


def _encoded(value: Any) -> bytes | None:
    """A string's UTF-8; a lone surrogate keeps its (invalid) bytes, so that decoding can reject it."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def _inferred(values: list[Any]) -> pa.Array:
    """An array of the values' common type; as strings where they have none, other values as their JSON."""
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        texts = [v if isinstance(v, str) or v is None else json.dumps(v) for v in values]
        escaped = [None if t is None else t.encode("utf-8", "backslashreplace").decode() for t in texts]
        return pa.array(escaped, pa.string())


def _as_string(column: pa.Array) -> pa.Array:
    """Bytes of a CSV column as strings; an empty field is null."""
    values = [v.decode("utf-8", "replace") if v else None for v in column.to_pylist()]
    return pa.array(values, pa.string())


def infer_type(column: pa.ChunkedArray) -> pa.DataType:
    """The narrowest of int64, double, bool, timestamp, string that all values of a text column have."""
    if column.null_count == len(column):
        return pa.string()
    for kind in (pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us")):
        try:
            column.cast(kind)
        except pa.ArrowException:
            continue
        return kind
    return pa.string()


def cast_rows(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """The column as `kind`, and the rows (from 0) whose value is not one, with the reason; null there."""
    try:
        return column.cast(kind).combine_chunks(), {}
    except pa.ArrowException:
        values, failed = [], {}
        for row, value in enumerate(column):
            try:
                values.append(value.cast(kind).as_py())
            except pa.ArrowException:
                values.append(None)
                failed[row] = (
                    f"{str(value.as_py())[:40]!r} is not {kind}, the type of this column since it was first "
                    "ingested; correct the value, or keep the column under another name"
                )
        return pa.array(values, kind), failed


def _require(path: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    missing = [c for c in wanted if c not in present]
    if missing:
        raise UnreadableTable(
            f"{path} has no column {', '.join(map(repr, missing))}; it has {', '.join(present) or 'none'}. "
            "Correct `id:`, `text:` or `attributes:` in evervec.yaml"
        )

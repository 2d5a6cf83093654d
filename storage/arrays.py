"""Between Arrow and numpy by their buffers.

pyarrow's own conversions (`pa.array`, `to_numpy`) import pandas where it is installed, which takes as
long as hashing 100,000 rows: too much for a run that finds nothing to do.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_numpy(array: pa.Array) -> np.ndarray:
    """The values of a boolean or fixed-width array; what lies under a null is arbitrary.

    Fixed-size binary comes as void (`V16`, `V32`), which compares byte by byte.
    """
    kind, data = array.type, array.buffers()[1]
    if len(array) == 0 or data is None:
        return np.empty(len(array), dtype=_numpy_type(kind))
    if pa.types.is_boolean(kind):
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return bits[array.offset : array.offset + len(array)].astype(bool)
    return np.frombuffer(data, _numpy_type(kind))[array.offset : array.offset + len(array)]


def validity(array: pa.Array) -> np.ndarray:
    """Which values are not null."""
    return to_numpy(array.is_valid())


def from_numpy(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """An array of `kind` (boolean or fixed-width) without nulls."""
    if pa.types.is_boolean(kind):
        raw = np.packbits(values, bitorder="little").tobytes()
    else:
        raw = np.ascontiguousarray(values, _numpy_type(kind)).tobytes()
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(raw)])


def repeated(text: str, count: int) -> pa.Array:
    """A string column of one value."""
    raw = text.encode()
    offsets = np.arange(count + 1, dtype=np.int32) * len(raw)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets.tobytes()), pa.py_buffer(raw * count))


def strings(values: Sequence[str]) -> pa.Array:
    """A string column."""
    return binaries([v.encode() for v in values]).cast(pa.large_string()).cast(pa.string())


def binaries(values: Sequence[bytes]) -> pa.Array:
    """A large_binary column."""
    offsets = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum([len(v) for v in values], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.large_binary(), len(values), buffers)


def rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as dicts; times, which must be in microseconds UTC, as datetimes."""
    columns = [
        [_EPOCH + timedelta(microseconds=us) for us in to_numpy(column.combine_chunks()).tolist()]
        if pa.types.is_timestamp(column.type)
        else column.to_pylist()
        for column in (table[name] for name in table.column_names)
    ]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def conformed(table: pa.Table, attributes: pa.StructType) -> pa.StructArray:
    """The attributes of some items with the columns `attributes`; null where they have none."""
    held: dict[str, pa.Array] = {}
    if "attributes" in table.column_names:
        column = table["attributes"].combine_chunks()
        held = dict(zip((f.name for f in column.type), column.flatten(), strict=True))
    fields = [
        held[f.name].cast(f.type, safe=False) if f.name in held else pa.nulls(table.num_rows, f.type)
        for f in attributes
    ]
    return pa.StructArray.from_arrays(fields, fields=list(attributes))


def empty(kind: pa.DataType) -> pa.Array:
    """No values."""
    return pa.nulls(0, kind)


def _numpy_type(kind: pa.DataType) -> np.dtype:
    if pa.types.is_fixed_size_binary(kind):
        return np.dtype(f"V{kind.byte_width}")
    if pa.types.is_timestamp(kind):
        return np.dtype(np.int64)
    return np.dtype(bool) if pa.types.is_boolean(kind) else np.dtype(kind.to_pandas_dtype())

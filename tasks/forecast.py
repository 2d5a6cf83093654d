"""What each way of an upgrade will cost on this machine, from rates measured on the sample."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from encoders.basis.spec import Basis, Space
from storage import parquet
from tasks.probed import Cost

_COPIES = 2
"""A vector lies in Parquet and in the index."""


@dataclass(frozen=True)
class Rates:
    """Rows a second, measured: encoded, written (Parquet and index), with side features made."""

    encoded: float
    written: float
    side: float | None
    gpus: float = 0.0
    price_per_hour: float | None = None


@dataclass(frozen=True)
class Extent:
    """How much there is to do: rows of the collection, those encoded natively already, those not mappable."""

    rows: int
    native: int
    unmappable: int


def cost_of_map(rates: Rates, extent: Extent, basis: Basis, source: Space, fit_seconds: float) -> Cost:
    """Map every row that can be, encode those that cannot; a forecast."""
    mapped = extent.rows - extent.unmappable
    vectors = np.ones((min(4_096, max(mapped, 1)), source.dim), np.float32)
    side = np.ones((len(vectors), basis.side_dim), np.float32) if basis.side else None
    applied = _rate(lambda: basis.apply(vectors, side, space=source, direction="rows"), len(vectors))
    seconds = mapped / applied + extent.rows / rates.written + fit_seconds
    if basis.side and rates.side:
        seconds += mapped / rates.side
    encoding = extent.unmappable / rates.encoded
    return _cost(rates, extent.unmappable, encoding, seconds, _COPIES * 4 * basis.target.dim * extent.rows)


def cost_of_bridge(rates: Rates, basis: Basis, target: Space, fit_seconds: float) -> Cost:
    """A map of queries is a file, and a matrix product a query."""
    query = np.ones((1, target.dim), np.float32)
    each = 1 / _rate(lambda: basis.apply(query, space=target, direction="queries"), 1)
    return _cost(rates, 0, 0.0, fit_seconds, 4 * basis.parameters, query_ms=1000 * each)


def cost_of_reencode(rates: Rates, extent: Extent, dim: int) -> Cost:
    """Encode what is not native yet."""
    rows = extent.rows - extent.native
    return _cost(
        rates, rows, rows / rates.encoded, extent.rows / rates.written, _COPIES * 4 * dim * extent.rows
    )


def with_cascade(cost: Cost, cascade: int, rates: Rates) -> Cost:
    """The same, and N encoder passes in a query whose candidates nobody has asked for before."""
    slower = cost.query_ms + 1000 * cascade / rates.encoded
    return Cost(cost.encode_rows, cost.seconds, cost.bytes, cost.gpu_hours, cost.money, slower)


def write_rate(vectors: np.ndarray) -> float:
    """Rows a second that this machine compresses and writes twice, by a trial in memory."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
    table = pa.table({"vector": flat})
    return _rate(lambda: parquet.serialized(table), len(vectors)) / _COPIES


def _cost(
    rates: Rates, encode_rows: int, encoding: float, other: float, size: int, query_ms: float = 0.0
) -> Cost:
    hours = encoding / 3600
    return Cost(
        encode_rows=encode_rows,
        seconds=encoding + other,
        bytes=size,
        gpu_hours=hours * rates.gpus if rates.gpus else None,
        money=(encoding + other) / 3600 * rates.price_per_hour if rates.price_per_hour is not None else None,
        query_ms=query_ms,
    )


def _rate(work: Callable[[], object], rows: int) -> float:
    """Rows a second, of the best of three times: the first one warms up."""
    took = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return rows / max(min(took), 1e-9)

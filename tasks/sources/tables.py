"""Rows of a Parquet, CSV or JSONL file."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import arrays, tables
from tasks.errors import BadRows, SourceUnusable
from tasks.project import TableSource
from tasks.sources.protocol import BATCH_BYTES, Pulled, PullReject, rows_table

_BATCH_ROWS = 16_384
_NAMED_ROWS = 10


class Table:
    """Streams the file; a broken row, or an attribute that is not of its column's type, is a reject.

    The types of attributes are those of the columns (Parquet), else of the first batch, and stay
    what they were when the collection was first ingested. `content` names the column of the content.
    """

    encoding: str | None = "utf-8"

    def __init__(
        self,
        spec: TableSource,
        content: str,
        attributes: dict[str, pa.DataType],
        *,
        batch_rows: int = _BATCH_ROWS,
    ) -> None:
        self._spec, self._content, self._batch_rows = spec, content, batch_rows
        self._types = {name: attributes[name] for name in spec.attributes if name in attributes}
        self.where = str(spec.path)

    def pull(self, since: str | None) -> Iterator[Pulled]:
        spec = self._spec
        columns = list(dict.fromkeys([spec.id, self._content, *spec.attributes]))
        for batch in tables.scan(spec.path, columns, [spec.id, self._content], self._batch_rows):
            rejects = [
                PullReject(None, f"{spec.path}#row={b.row}", b.reason, "BrokenRow") for b in batch.broken
            ]
            self._require_ids(batch)
            yield from self._split(self._pulled(batch, rejects))
        yield Pulled(_empty(self._types, spec.attributes), complete=True)

    def _require_ids(self, batch: tables.Batch) -> None:
        ids = batch.table[self._spec.id]
        if ids.null_count == 0 and (len(ids) == 0 or pc.min(pc.binary_length(ids)).as_py() > 0):
            return
        numbers = batch.numbers.to_pylist()
        missing = [n for n, i in zip(numbers, ids.to_pylist(), strict=True) if not i]
        named = ", ".join(map(str, missing[:_NAMED_ROWS]))
        more = f" and {len(missing) - _NAMED_ROWS} more" if len(missing) > _NAMED_ROWS else ""
        raise BadRows(
            f"{self._spec.path}: no {self._spec.id!r} in rows {named}{more} (counted from 1). Every row "
            "needs an id of its own that stays the same between runs; nothing was changed"
        )

    def _pulled(self, batch: tables.Batch, rejects: list[PullReject]) -> Pulled:
        spec, table = self._spec, batch.table
        ids, bad = _as_strings(table[spec.id].combine_chunks())
        keep = np.ones(table.num_rows, dtype=bool)
        for at in bad:
            keep[at] = False
            where = f"{spec.path}#row={batch.numbers[at].as_py()}"
            rejects.append(PullReject(None, where, "the id is not valid UTF-8", "UnicodeDecodeError"))
        fields = []
        for name in spec.attributes:
            column = table[name]
            if name in (spec.id, self._content):
                column = pa.chunked_array([_as_strings(column.combine_chunks())[0]])
            array, failed = tables.cast_rows(column, self._type_of(name, column))
            fields.append(array)
            for at, reason in failed.items():
                if keep[at]:
                    keep[at] = False
                    item_id = ids[at].as_py()
                    rejects.append(PullReject(item_id, str(spec.path), f"{name}: {reason}", "BadAttribute"))
        attributes = pa.StructArray.from_arrays(fields, names=list(spec.attributes)) if fields else None
        content = table[self._content].combine_chunks()
        uris = arrays.repeated(str(spec.path), table.num_rows)
        rows = rows_table(ids, uris, content, batch.numbers, attributes)
        if not keep.all():
            rows = rows.filter(arrays.from_numpy(keep, pa.bool_()))
        return Pulled(rows, tuple(rejects))

    def _type_of(self, name: str, column: pa.ChunkedArray) -> pa.DataType:
        if name not in self._types:
            kind = column.type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if pa.types.is_null(kind):
                kind = pa.string()
            if pa.types.is_string_view(kind):
                kind = pa.string()
            if pa.types.is_map(kind) or pa.types.is_union(kind) or pa.types.is_duration(kind):
                raise SourceUnusable(
                    f"{self._spec.path}: attribute {name!r} is {kind}, which the index or SQL cannot hold; "
                    "write it as text, number, time, list or struct, or leave it out of `attributes:`"
                )
            if self._spec.path.suffix.lower() in (".csv", ".tsv"):
                kind = tables.infer_type(column)
            self._types[name] = kind
        return self._types[name]

    @staticmethod
    def _split(pulled: Pulled) -> Iterator[Pulled]:
        """Batches of at most BATCH_BYTES where rows are long."""
        pieces = max(1, -(-pulled.rows.nbytes // BATCH_BYTES))
        step = max(1, -(-pulled.rows.num_rows // pieces))
        yield Pulled(pulled.rows.slice(0, step), pulled.rejects)
        for at in range(step, pulled.rows.num_rows, step):
            yield Pulled(pulled.rows.slice(at, step))


def _empty(types: dict[str, pa.DataType], names: tuple[str, ...]) -> pa.Table:
    struct = pa.struct([(n, types.get(n, pa.string())) for n in names])
    attributes = arrays.empty(struct) if names else None
    ids, uris = arrays.empty(pa.string()), arrays.empty(pa.string())
    return rows_table(ids, uris, arrays.empty(pa.large_binary()), arrays.empty(pa.int64()), attributes)


def _as_strings(raw: pa.Array) -> tuple[pa.Array, list[int]]:
    """The column as strings, and the rows that are not valid UTF-8 (empty there)."""
    try:
        return raw.cast(pa.large_string()).cast(pa.string()), []
    except pa.ArrowInvalid:
        decoded, bad = [], []
        for at, value in enumerate(raw.to_pylist()):
            try:
                decoded.append(value.decode())
            except UnicodeDecodeError:
                decoded.append("")
                bad.append(at)
        return arrays.strings(decoded), bad

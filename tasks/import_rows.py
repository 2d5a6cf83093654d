"""A table of vectors is read: every row is checked, and put aside or refused."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.decode import decode_text
from encoders.errors import RowError, Undecodable
from storage import foreign, tables
from tasks.calls import opened
from tasks.errors import BadRows, Refused, RunFailed, SourceUnusable
from tasks.imports import Job, numbers_of, table_files

BATCH_ROWS = 4_096

COSINE = 0.99
"""Mean cosine, to what the encoder gives for the same texts, above which vectors count as its own."""

COSINE_AT_LEAST = 0.9
"""Below this no `--yes` helps: these are vectors of another space."""

NORM_TOLERANCE = 1e-3
_SAMPLE = 16
_NAMED = 5


@dataclass
class Gathered:
    """A table that was read: its rows put aside, and what was seen on the way.

    `off_norm` counts vectors whose length is not 1. `refused_items` cannot come in, for one of their
    chunks cannot. `attributes` are those that the table has.
    """

    aside: foreign.Aside
    rows: int = 0
    off_norm: int = 0
    unit: bool = False
    refused_items: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    attributes: pa.StructType = field(default_factory=lambda: pa.struct([]))
    sample: list[tuple[float, str, np.ndarray]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(job: Job, folder: Path) -> Gathered:
    """Read the table once: good rows are put aside in `folder`, the others with the reason why not.

    Raises `UnreadableTable`, and `RunFailed` if no row can be used.
    """
    aside = foreign.Aside(folder)
    found = Gathered(aside)
    reader = _TableReader(job, found)
    with aside:
        files = table_files(job.given, is_export=job.is_export)
        for file in files:
            for batch in tables.scan(file, reader.columns(file), reader.binary, BATCH_ROWS):
                reader.add(file, batch, "" if len(files) == 1 else f"{file.name}, ")
    if not aside.count("good"):
        common = found.reasons.most_common(1)
        why = f"; mostly because {common[0][0]}" if common else ""
        raise RunFailed(f"none of the {found.rows:,} rows of {job.given.path} can be used{why}")
    return found


class _TableReader:
    """Checks the rows of a table, batch by batch."""

    def __init__(self, job: Job, found: Gathered) -> None:
        given = job.given
        self._job, self._given, self._found = job, given, found
        content = given.text or given.uri
        self.binary = [n for n in (given.id, content) if n]
        self._types = {f.name: f.type for f in job.kept}
        self._random = np.random.default_rng(0)

    def columns(self, file: Path) -> list[str]:
        given = self._given
        spans = [n for n in ("chunk_start", "chunk_end") if given.chunk and n in foreign.columns(file)]
        attributes = () if self._job.is_export else given.attributes
        named = (given.id, given.vector, given.text, given.uri, given.chunk, *spans, *attributes)
        return list(dict.fromkeys(n for n in named if n))

    def add(self, file: Path, batch: tables.Batch, prefix: str) -> None:
        """Put the rows of a batch aside, each where it belongs."""
        table, given, found = batch.table, self._given, self._found
        count = table.num_rows
        found.rows += count + len(batch.broken)
        numbers = batch.numbers.to_pylist()
        problems: dict[int, tuple[str, str, str]] = {}
        ids = _texts_of(table[given.id])
        for row, item_id in enumerate(ids):
            if not item_id:
                why = "there is no id" if item_id == "" else "the id is missing or not valid UTF-8"
                problems[row] = ("pull", why, "MissingId")
        matrix, unfit = as_matrix(table[given.vector], self._job.release.dim)
        for row, reason in unfit.items():
            problems.setdefault(row, ("encode", reason, "BadVector"))
        raw = table[given.text or given.uri].to_pylist()
        for row, value in enumerate(raw):
            if row not in problems and (problem := self._problem_of_content(value)) is not None:
                problems[row] = problem
        chunk, starts, ends = self._spans(table, problems)
        attributes = self._attributes(table, problems)
        good = np.array([row not in problems for row in range(count)], dtype=bool)
        columns = {
            "item_id": pa.array(ids, pa.string()),
            "place": pa.array([f"{prefix}row {n}" for n in numbers], pa.string()),
            "chunk": chunk,
            "start": starts,
            "end": ends,
            "content": pa.array(
                raw if given.text and not self._job.is_export else [None] * count, pa.large_binary()
            ),
            "uri": pa.array(_texts_of(table[given.uri]) if given.uri else [str(file)] * count, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1]),
        }
        if attributes is not None:
            columns["attributes"] = attributes
            found.attributes = attributes.type
        found.aside.write("good", pa.table(columns).filter(pa.array(good)))
        self._look_at(matrix, raw, good)
        self._refuse(file, prefix, ids, numbers, problems, batch.broken)

    def _problem_of_content(self, value: bytes | None) -> tuple[str, str, str] | None:
        if self._job.is_export:
            return None  # its items have the text
        if self._given.uri:
            return None if value else ("pull", "there is no uri", "MissingUri")
        try:
            chunk_text(value) if self._given.chunk else decode_text(value, declared="utf-8")
        except RowError as error:
            return error.stage, str(error), type(error).__name__
        return None

    def _spans(
        self, table: pa.Table, problems: dict[int, tuple[str, str, str]]
    ) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Number, start and end of each chunk; starts and ends null where the table has none."""
        none = pa.nulls(table.num_rows, pa.int64())
        if not self._given.chunk:
            return pa.array(np.zeros(table.num_rows, np.int64)), none, none
        found = []
        for name in (self._given.chunk, "chunk_start", "chunk_end"):
            if name not in table.column_names:
                found.append(none)
                continue
            array, failed = tables.cast_rows(table[name], pa.int64())
            wrong = set(failed)
            if name == self._given.chunk or self._job.is_export:
                wrong |= set(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist())
            for row in wrong:
                problems.setdefault(row, ("chunk", f"{name} is missing or no whole number", "BadChunk"))
            found.append(array)
        return found[0], found[1], found[2]

    def _attributes(
        self, table: pa.Table, problems: dict[int, tuple[str, str, str]]
    ) -> pa.StructArray | None:
        names = () if self._job.is_export else self._given.attributes
        fields = []
        for name in names:
            column = table[name]
            if name in self.binary:
                column = pa.chunked_array([pa.array(_texts_of(column), pa.string())])
            kind = self._types.setdefault(name, _attribute_type(self._given.path, name, column.type))
            array, failed = tables.cast_rows(column, kind)
            for row, reason in failed.items():
                problems.setdefault(row, ("pull", f"{name}: {reason}", "BadAttribute"))
            fields.append(array)
        return pa.StructArray.from_arrays(fields, names=list(names)) if fields else None

    def _look_at(self, matrix: np.ndarray, raw: list[bytes | None], good: np.ndarray) -> None:
        """Count vectors that are not of length 1, and keep some rows, drawn evenly, to be encoded."""
        norms = np.linalg.norm(matrix[good], axis=1)
        self._found.off_norm += int((np.abs(norms - 1) > NORM_TOLERANCE).sum())
        if self._job.encoder is None or not self._given.text:
            return
        lots = self._random.random(len(good))
        sample = self._found.sample
        worst = sample[-1][0] if len(sample) == _SAMPLE else 1.0
        for row in np.flatnonzero(good & (lots < worst)).tolist():
            text = (raw[row] or b"").decode()
            if not self._given.chunk:
                text = decode_text(raw[row], declared="utf-8")
            sample.append((float(lots[row]), text, matrix[row]))
        sample.sort(key=lambda drawn: drawn[0])
        del sample[_SAMPLE:]

    def _refuse(
        self,
        file: Path,
        prefix: str,
        ids: list[str | None],
        numbers: list[int],
        problems: dict[int, tuple[str, str, str]],
        broken: tuple[tables.BrokenRow, ...],
    ) -> None:
        rows_of = [(ids[at] or None, numbers[at], *why) for at, why in sorted(problems.items())]
        rows_of += [(None, b.row, "pull", b.reason, "BrokenRow") for b in broken]
        if not rows_of:
            return
        self._found.reasons.update(row[3] for row in rows_of)
        if self._given.chunk:
            self._found.refused_items.update(row[0] for row in rows_of if row[0] is not None)
        columns = {
            "item_id": [row[0] for row in rows_of],
            "place": [f"{prefix}row {row[1]}" for row in rows_of],
            "uri": [f"{file}#row={row[1]}" for row in rows_of],
            "stage": [row[2] for row in rows_of],
            "reason": [row[3] for row in rows_of],
            "error_type": [row[4] for row in rows_of],
        }
        self._found.aside.write(
            "refused", pa.table({n: pa.array(v, pa.string()) for n, v in columns.items()})
        )


def as_matrix(column: pa.ChunkedArray, dim: int) -> tuple[np.ndarray, dict[int, str]]:
    """The vectors as float32 (rows, dim), and why some cannot be used; zeros there."""
    array = column.combine_chunks()
    matrix = np.zeros((len(array), dim), dtype=np.float32)
    unfit: dict[int, str] = {}
    if _is_numeric_list(array.type):
        lengths = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False)
        fitting = lengths == dim
        flat = array.filter(pa.array(fitting)).flatten().cast(pa.float32(), safe=False)
        matrix[fitting] = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)
        for row in np.flatnonzero(~fitting).tolist():
            unfit[row] = _wrong_length(int(lengths[row]), dim)
    else:  # JSON values that have no type in common
        for row, value in enumerate(array.to_pylist()):
            numbers = numbers_of(value)
            if numbers is None or len(numbers) != dim:
                given = -1 if value is None else len(numbers) if numbers is not None else None
                unfit[row] = (
                    "the vector is no list of numbers" if given is None else _wrong_length(given, dim)
                )
            else:
                matrix[row] = numbers
    finite = np.isfinite(matrix).all(axis=1)
    for row in np.flatnonzero(~finite).tolist():
        unfit[row] = "the vector holds NaN, infinite or missing numbers"
    for row in np.flatnonzero(finite & ~matrix.any(axis=1)).tolist():
        unfit.setdefault(row, "the vector is all zeros: it has no direction to compare")
    matrix[~finite] = 0
    return matrix, unfit


def _is_numeric_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_list(kind) for is_list in lists):
        return False
    return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _wrong_length(found: int, dim: int) -> str:
    return "the vector is missing" if found < 0 else f"the vector has {found} numbers, expected {dim}"


def _texts_of(column: pa.ChunkedArray) -> list[str | None]:
    """Binary values as texts; None where there is none, or one that is not UTF-8."""
    found: list[str | None] = []
    for value in column.to_pylist():
        try:
            found.append(None if value is None else value.decode())
        except UnicodeDecodeError:
            found.append(None)
    return found


def chunk_text(content: bytes | None) -> str:
    """The text of one chunk, as it is: offsets count its characters."""
    if not content:
        raise Undecodable("there is no text" if content is None else "the text is empty")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise Undecodable(f"not valid utf-8 at byte {error.start} ({error.reason})") from None
    if "\0" in text:
        raise Undecodable(f"NUL byte at character {text.index(chr(0))}: binary data, not text")
    return text


def _attribute_type(path: Path, name: str, kind: pa.DataType) -> pa.DataType:
    """The type that an attribute is kept as; that which an ingest of the same column would give it."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_map(kind) or pa.types.is_union(kind) or pa.types.is_duration(kind):
        raise SourceUnusable(
            f"{path}: attribute {name!r} is {kind}, which the index or SQL cannot hold; write it as text, "
            "number, time, list or struct, or leave it out of --attributes"
        )
    return kind


def verify(job: Job, gathered: Gathered, *, yes: bool) -> None:
    """What only the whole table can tell: ids that come twice, vectors of another encoder or length.

    Raises `BadRows` naming the rows, and `Refused`: below a mean cosine of 0.9 to the encoder's own
    vectors always, from there to 0.99, and for vectors off unit norm, unless `yes`. Nothing was written.
    """
    _require_distinct(job, gathered)
    if job.encoder is None:
        return
    if not gathered.sample:
        gathered.notes.append("there is no text to encode, so that the vectors were compared with none")
        return
    spec, facts = job.encoder
    made = opened(spec, facts).encode([text for _, text, _ in gathered.sample])
    cosine = _mean_cosine(made, np.stack([vector for _, _, vector in gathered.sample]))
    gathered.notes.append(
        f"{len(gathered.sample)} rows encoded again: mean cosine {cosine:.4f} to their vectors"
    )
    if cosine < COSINE:
        _require_cosine(job, cosine, len(gathered.sample), yes=yes)
    gathered.unit = bool((np.abs(np.linalg.norm(made, axis=1) - 1) <= NORM_TOLERANCE).all())
    if gathered.unit and gathered.off_norm:
        if not yes:
            raise Refused(
                f"{gathered.off_norm:,} of {gathered.rows:,} vectors are not of length 1, but encoder "
                f"{job.given.encoder!r} gives such only. With --yes they are scaled to it, which changes no "
                "cosine; nothing was written"
            )
        gathered.notes.append(f"{gathered.off_norm:,} vectors were scaled to length 1")


def _mean_cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(np.mean(np.sum(one * other, axis=1) / lengths))


def _require_cosine(job: Job, cosine: float, count: int, *, yes: bool) -> None:
    said = (
        f"encoder {job.given.encoder!r} gives other vectors for the same texts: over {count} rows the mean "
        f"cosine is {cosine:.3f}, expected {COSINE} or more"
    )
    if cosine < COSINE_AT_LEAST:
        raise Refused(
            f"{said}. They are of another space and must not be mixed: import them with --space NAME, or "
            "declare the encoder (model, prompts) that made them. Nothing was written"
        )
    if not yes:
        raise Refused(
            f"{said}. Check model, prompts and what was embedded; if these differences are meant, run again "
            "with --yes. Nothing was written"
        )


def _require_distinct(job: Job, gathered: Gathered) -> None:
    keys = ["item_id", "chunk"] if job.given.chunk else ["item_id"]
    count, named = gathered.aside.twice(keys, _NAMED)
    if not count:
        return
    shown = "; ".join(f"{i!r} is in {' and '.join(places[:3])}" for i, places in named.items())
    more = f" and {count - len(named):,} more" if count > len(named) else ""
    remedy = (
        "each chunk number may come once an item"
        if job.given.chunk
        else "if an item has several vectors, name the column that orders them with --chunk COL"
    )
    raise BadRows(f"{job.given.path}: ids must be unique, but {shown}{more}; {remedy}. Nothing was changed")

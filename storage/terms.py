"""What a filter compares: columns, functions of them, and constants, each in the SQL of both engines.

`storage.filters` makes conditions of them. A constant is written exactly as its column's type would hold
it, and refused if that cannot hold it.
"""

import datetime as dt
import math
import operator
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa

_EPOCH = dt.datetime(1970, 1, 1)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_OPERATORS = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_TIMESTAMPS = {"TIMESTAMP", "DATETIME", "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"}

Constant = str | bool | Decimal | float | dt.date | dt.datetime
Pair = tuple[str, str]
"""The same in the SQL of LanceDB and of DuckDB."""


class Unfit(Exception):
    """What is wrong with a part of the condition; `filters.parse` adds what was given, and the columns."""


@dataclass(frozen=True)
class Term:
    """A value of each row: a column or a function of one."""

    name: str
    kind: pa.DataType
    holds: str
    lance: str
    duckdb: str


def holds(kind: pa.DataType) -> str:
    """What a column holds, in words; its type's name where filters only know whether it is null."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_integer(kind):
        return "whole numbers"
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return "numbers"
    if pa.types.is_decimal128(kind):
        return "decimals"
    if pa.types.is_boolean(kind):
        return "truth values"
    if pa.types.is_date32(kind):
        return "dates"
    return "timestamps" if pa.types.is_timestamp(kind) else str(kind)


def column_term(name: str, kind: pa.DataType) -> Term:
    """A column, with one order of its values in both engines."""
    held, lance, duck = holds(kind), lance_name(name), duckdb_name(name)
    if held not in _LITERALS:
        raise Unfit(f"{name} is {held}, of which a filter can only ask IS NULL")
    if held == "numbers":  # one NaN, above all numbers, and one zero
        lance = f"nanvl(CAST({lance} AS DOUBLE) + 0.0, CAST('NaN' AS DOUBLE))"
        duck = f"CAST({duck} AS DOUBLE)"
    elif held == "timestamps":  # as whole numbers: casts between units fail far from 1970
        lance = f"CAST({lance} AS BIGINT)"
        duck = f"epoch_ns({duck})" if kind.unit == "ns" else f"epoch_us({duck})"
    return Term(name, kind, held, lance, duck)


def lowered(term: Term) -> Term:
    """Lower case letter by letter, as DuckDB has it: LanceDB's heeds the place of a sigma in its word."""
    if term.lance.startswith("lower("):
        return term
    lance = f"lower(replace(replace({term.lance}, 'İ', 'i'), 'Σ', 'σ'))"
    return Term(f"lower({term.name})", term.kind, term.holds, lance, f"lower({term.duckdb})")


def lower(text: str) -> str:
    """A constant in lower case, as `lowered` has a column."""
    return "".join("i" if letter == "İ" else letter.lower() for letter in text)


def length(term: Term) -> Term:
    """Number of code points."""
    lance, duck = f"length({term.lance})", f"length({term.duckdb})"
    return Term(f"length({term.name})", pa.int32(), "whole numbers", lance, duck)


def constant(node: dict[str, Any]) -> Constant:
    """The value of a constant in the tree that DuckDB's parser makes."""
    kind, text = node["literal"]["kind"], str(node["literal"].get("text", ""))
    if kind == "STRING":
        return text
    if kind == "BOOLEAN":
        return text == "true"
    if kind in ("INTEGER", "NUMERIC"):
        number = Decimal(text.replace("_", ""))
        if abs(number.adjusted()) > 400:
            raise Unfit(f"{text} is beyond all columns")
        return number
    if kind == "NULL_LITERAL":
        raise Unfit("nothing equals NULL; ask IS NULL or IS NOT NULL")
    raise Unfit(f"constants of kind {kind} are not allowed")


def cast(node: dict[str, Any]) -> Constant:
    """A constant with its type: DATE '…', TIMESTAMP '…', 'NaN'::DOUBLE."""
    wanted = str(node["type_expr"].get("type_name", "")).upper()
    if node.get("try_cast") or node["child"]["class"] != "CONSTANT" or node["type_expr"].get("children"):
        raise Unfit("only constants can be cast, to DATE, TIMESTAMP, TIMESTAMPTZ or DOUBLE")
    value = constant(node["child"])
    if wanted == "DATE" and isinstance(value, str):
        return _date(value)
    if wanted in _TIMESTAMPS and isinstance(value, str):
        moment = _moment(value)
        zoned = wanted in ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE")
        return moment.replace(tzinfo=dt.UTC) if zoned and moment.tzinfo is None else moment
    if wanted == "DOUBLE" and isinstance(value, str | Decimal):
        try:
            return float(value)
        except ValueError:
            raise Unfit(f"{value!r} is not a number") from None
    raise Unfit(f"{shown(value)} cannot be cast to {wanted}, only to DATE, TIMESTAMP, TIMESTAMPTZ or DOUBLE")


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise Unfit(f"expected a date like '2026-01-31', got {text!r}") from None


def _moment(text: str) -> dt.datetime:
    try:
        if re.search(r"\.\d{7}", text):
            raise ValueError
        return dt.datetime.fromisoformat(text)
    except ValueError:
        like = "'2026-01-31', '2026-01-31 12:00:00.5' or '2026-01-31 12:00:00+01:00'"
        raise Unfit(f"expected a time like {like}, got {text!r}") from None


def require_alike(first: Term, second: Term, sign: str) -> None:
    """Raise `Unfit` if two columns cannot be compared."""
    typed = ("decimals", "timestamps")
    if first.holds != second.holds or (first.holds in typed and first.kind != second.kind):
        raise Unfit(f"{first.name} holds {first.kind} and {second.name} {second.kind}: no comparing them")
    if first.holds == "truth values" and sign not in ("=", "<>"):
        raise Unfit(f"{first.name} holds truth values, which have no order")


def holds_between(first: Constant, sign: str, second: Constant) -> bool:
    """Whether the comparison of two constants is true."""
    pair: tuple[Any, Any] = (first, second)
    if isinstance(first, str) and isinstance(second, str):
        pair = (first.encode(), second.encode())
    elif type(first) is not type(second) or isinstance(first, float | dt.datetime):
        raise Unfit(f"there is no comparing {shown(first)} with {shown(second)}")
    return bool(_OPERATORS[sign](*pair))


def literal(term: Term, value: Constant, sign: str = "=") -> Pair:
    """The constant in the SQL of both engines, exactly as the column's type would hold it."""
    if term.holds == "truth values" and sign not in ("=", "<>"):
        raise Unfit(f"{term.name} holds truth values, which have no order")
    found = _LITERALS[term.holds](term, value)
    if found is None:
        quotes = " (texts go in 'single quotes')" if term.holds == "text" else ""
        raise Unfit(f"{term.name} holds {term.holds} ({term.kind}), not {shown(value)}{quotes}")
    return found


def _text_literal(term: Term, value: Constant) -> Pair | None:
    return (string(value), string(value)) if isinstance(value, str) else None


def _whole_literal(term: Term, value: Constant) -> Pair | None:
    if not isinstance(value, Decimal) or Fraction(value).denominator != 1:
        return None
    number, bits = int(value), term.kind.bit_width
    signed = pa.types.is_signed_integer(term.kind)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    if not low <= number < high:
        raise Unfit(f"{term.name} holds {term.kind}, from {low} to {high - 1}; {value} is beyond")
    return _integer(number), str(number)


def _float_literal(term: Term, value: Constant) -> Pair | None:
    if isinstance(value, bool) or not isinstance(value, Decimal | float):
        return None
    number = float(value) + 0.0
    try:
        if pa.types.is_float32(term.kind):  # 0.1 then means what such a column holds for it
            number = struct.unpack("f", struct.pack("f", number))[0]
        if isinstance(value, Decimal) and math.isinf(number):
            raise OverflowError
    except OverflowError:
        raise Unfit(f"{term.name} holds {term.kind}; {value} is beyond") from None
    if not math.isfinite(number):
        return (f"CAST('{number}' AS DOUBLE)",) * 2
    return (f"{number:.17e}",) * 2


def _decimal_literal(term: Term, value: Constant) -> Pair | None:
    if not isinstance(value, Decimal):
        return None
    precision, scale = term.kind.precision, term.kind.scale
    shifted = Fraction(value) * Fraction(10) ** scale
    if shifted.denominator != 1 or abs(shifted) >= 10**precision:
        raise Unfit(f"{term.name} holds decimals ({precision}, {scale}), not {value}")
    exact = f"{Decimal(f'{int(shifted)}E{-scale}'):f}"  # arithmetic would round to 28 digits
    return (f"CAST('{exact}' AS DECIMAL({precision}, {scale}))",) * 2


def _date_literal(term: Term, value: Constant) -> Pair | None:
    value = _date(value) if isinstance(value, str) else value
    if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
        return None
    return (f"DATE '{value.isoformat()}'",) * 2


def _moment_literal(term: Term, value: Constant) -> Pair | None:
    moment = _moment(value) if isinstance(value, str) else value
    if isinstance(moment, dt.date) and not isinstance(moment, dt.datetime):
        moment = dt.datetime.combine(moment, dt.time())
    if not isinstance(moment, dt.datetime):
        return None
    if moment.tzinfo is not None and term.kind.tz is None:
        raise Unfit(f"the times in {term.name} have no zone, but {shown(value)} has one")
    since = moment.replace(tzinfo=None) - _EPOCH - (moment.utcoffset() or dt.timedelta())
    microseconds = since // dt.timedelta(microseconds=1)
    units = Fraction(microseconds, 10**6) * _PER_SECOND[term.kind.unit]
    if units.denominator != 1 or not -(2**63) <= units < 2**63:
        raise Unfit(f"{term.name} holds {term.kind}, which cannot hold {shown(value)}")
    return _integer(int(units)), str(int(units) if term.kind.unit == "ns" else microseconds)


_LITERALS: dict[str, Callable[[Term, Constant], Pair | None]] = {
    "text": _text_literal,
    "whole numbers": _whole_literal,
    "numbers": _float_literal,
    "decimals": _decimal_literal,
    "truth values": lambda _, value: (str(value).upper(),) * 2 if isinstance(value, bool) else None,
    "dates": _date_literal,
    "timestamps": _moment_literal,
}


def shown(value: object) -> str:
    """A column or constant as a message names it."""
    if isinstance(value, Term):
        return value.name
    if isinstance(value, bool):
        return str(value).upper()
    return str(value) if isinstance(value, Decimal | float) else repr(str(value))


def _integer(number: int) -> str:
    """For LanceDB, which reads the least 64-bit number as minus a number that is none."""
    return str(number) if number > -(2**63) else f"CAST('{number}' AS BIGINT)"


def string(text: str) -> str:
    """A text in the SQL of either engine."""
    return "'" + text.replace("'", "''") + "'"


def lance_name(name: str) -> str:
    """A column's name in the SQL of LanceDB."""
    if "`" in name:
        raise Unfit(f"LanceDB cannot filter by a name with a backtick, like {name}")
    return f"`{name}`"


def duckdb_name(name: str) -> str:
    """A column's name in the SQL of DuckDB."""
    return '"' + name.replace('"', '""') + '"'

"""The filter of a search: one SQL condition over the columns, taken apart and written anew.

What a person gives is parsed by DuckDB and walked with a list of what is allowed; nothing of it is
pasted into a query. LanceDB and DuckDB mean different things by some equal words (backslashes in LIKE,
final sigmas, signed NaNs, times of other units), so each gets its own SQL for the one meaning.
"""

import datetime as dt
import difflib
import functools
import json
import math
import operator
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import duckdb
import pyarrow as pa

from storage.errors import QueryRefused

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 12
"""AND in OR in AND …: LanceDB's parser stops at about 20."""

_UNDERSTOOD = (
    "columns compared with constants (= <> < <= > >= BETWEEN, IN), LIKE, ILIKE, IS NULL, AND, OR, NOT, "
    "lower(), length(), starts_with() and contains()"
)
_EPOCH = dt.datetime(1970, 1, 1)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NEGATED = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_OPERATORS = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_TURNED = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_COMPARISONS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "<>",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_LIKES = {  # name: (negated, ignoring case)
    "~~": (False, False),
    "!~~": (True, False),
    "~~*": (False, True),
    "!~~*": (True, True),
    "like_escape": (False, False),
    "not_like_escape": (True, False),
    "ilike_escape": (False, True),
    "not_ilike_escape": (True, True),
}
_SEARCHES = {"starts_with": "starts_with", "^@": "starts_with", "contains": "contains"}
_TIMESTAMPS = {"TIMESTAMP", "DATETIME", "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"}

_Constant = str | bool | Decimal | float | dt.date | dt.datetime
_Pair = tuple[str, str]


@dataclass(frozen=True)
class Filter:
    """One condition in the SQL of both engines; it holds for the same rows in either.

    `lance` is for `where(..., prefilter=True)`, `duckdb` for a WHERE over columns of the same names.
    """

    lance: str
    duckdb: str


def parse(text: str, columns: Mapping[str, pa.DataType]) -> Filter:
    """The filter that `text`, a SQL condition over `columns`, asks for.

    Names match like in SQL, whatever their ASCII case. Times without a zone mean UTC where the column has
    one. A comparison with NULL, or of different kinds (text with a number), is refused rather than never
    true. Raises `QueryRefused`, naming the columns, for anything but a condition built of what is allowed.
    """
    try:
        condition = _Reader(columns).condition(_tree(text), negated=False)
    except _Unfit as unfit:
        problem = str(unfit)
    except RecursionError:
        problem = "it is nested too deeply"
    else:
        return Filter(condition.lance, condition.duckdb)
    given = text if len(text) <= 200 else text[:200] + "…"
    usable = ", ".join(f"{name} ({_holds(kind)})" for name, kind in columns.items() if name != "vector")
    raise QueryRefused(f"cannot filter by {given!r}: {problem}. Columns: {usable or 'none'}")


class _Unfit(Exception):
    """What is wrong with a part of the condition; `parse` adds what was given, and the columns."""


@dataclass(frozen=True)
class _Condition:
    """Something true, false or null of a row; `joined` is the AND or OR that it consists of, if any."""

    lance: str
    duckdb: str
    joined: str = ""
    depth: int = 0


@dataclass(frozen=True)
class _Term:
    """A value of each row: a column or a function of one."""

    name: str
    kind: pa.DataType
    holds: str
    lance: str
    duckdb: str


def _tree(text: str) -> dict[str, Any]:
    """The condition as DuckDB's parser understands it."""
    if len(text) > MAX_CHARACTERS:
        raise _Unfit(f"it has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    if not text.strip():
        raise _Unfit("it is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Unfit("it is not valid Unicode") from None
    if any(kind == duckdb.token_type.comment for _, kind in duckdb.tokenize(text)):
        raise _Unfit("comments are not allowed")
    # What parses both bare and in brackets is one expression: bare, it cannot close the brackets around
    # it, and in brackets nothing can follow it, not even what leaves no trace in the tree (WINDOW)
    with _parser().cursor() as cursor:
        bare = _parsed(cursor, f"SELECT 1 FROM t WHERE {text}")
        _parsed(cursor, f"SELECT 1 FROM t WHERE (\n{text}\n)")
    node = bare.pop("where_clause")
    expected = {"type": "SELECT_NODE", "aggregate_handling": "STANDARD_HANDLING"}
    beside = {k: v for k, v in bare.items() if k not in ("select_list", "from_table") and v}
    if beside.pop("cte_map") != {"map": []} or beside != expected:
        raise _Unfit("expected one condition and nothing behind it")
    return dict(node)


@functools.cache
def _parser() -> Any:
    """A database that only parses; opening it takes longer (14 ms) than a search."""
    return duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})


def _parsed(cursor: Any, query: str) -> dict[str, Any]:
    answer = cursor.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0]
    tree = json.loads(answer)
    if tree["error"]:
        hint = " (texts go in 'single quotes'; names with spaces or that are SQL words in \"double\")"
        raise _Unfit(tree["error_message"] + (hint if "syntax error" in tree["error_message"] else ""))
    statements = tree["statements"]
    node = statements[0]["node"]
    if len(statements) != 1 or node["type"] != "SELECT_NODE" or not node.get("where_clause"):
        raise _Unfit("expected one condition")
    return dict(node)


class _Reader:
    """Walks a parsed condition and writes it anew.

    NOT is pushed down to the leaves, which is as true with nulls: LanceDB's parser takes twice as long for
    every NOT (…) within another, for ever from 40 on.
    """

    def __init__(self, columns: Mapping[str, pa.DataType]) -> None:
        self._columns = columns

    def condition(self, node: dict[str, Any], negated: bool) -> _Condition:
        kind = node["class"]
        if kind == "CONJUNCTION":
            word = "OR" if (node["type"] == "CONJUNCTION_OR") != negated else "AND"
            return _join(word, [self.condition(child, negated) for child in node["children"]])
        if kind == "OPERATOR":
            return self._operator(node, negated)
        if kind == "COMPARISON":
            return self._comparison(node, negated)
        if kind == "BETWEEN":
            low = self._compare(node["input"], ">=", node["lower"], negated)
            high = self._compare(node["input"], "<=", node["upper"], negated)
            return _join("OR" if negated else "AND", [low, high])
        if kind == "FUNCTION" and node["function_name"] in _LIKES:
            return self._like(node, negated)
        if kind == "FUNCTION" and node["function_name"] in _SEARCHES:
            return self._search(node, negated)
        value = self._operand(node)
        if isinstance(value, _Term) and value.holds == "truth values":
            return _condition("NOT {}" if negated else "{}", (value.lance, value.duckdb))
        if isinstance(value, bool):
            return _truth(value != negated)
        raise _Unfit(f"expected a condition, got {_shown(value)}")

    def _operator(self, node: dict[str, Any], negated: bool) -> _Condition:
        children, kind = node["children"], node["type"]
        if kind == "OPERATOR_NOT":
            return self.condition(children[0], not negated)
        if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            is_null = (kind == "OPERATOR_IS_NULL") != negated
            return _condition("{} IS NULL" if is_null else "{} IS NOT NULL", self._nullable(children[0]))
        if kind in ("COMPARE_IN", "COMPARE_NOT_IN"):
            return self._membership(children, negated != (kind == "COMPARE_NOT_IN"))
        raise _Unfit(f"{kind} is not allowed, only {_UNDERSTOOD}")

    def _nullable(self, node: dict[str, Any]) -> _Pair:
        if node["class"] == "COLUMN_REF":  # of any type
            name = self._column(node)
            return _lance_name(name), _duckdb_name(name)
        value = self._operand(node)
        if not isinstance(value, _Term):
            raise _Unfit(f"IS NULL asks for a column, not for {_shown(value)}")
        return value.lance, value.duckdb

    def _membership(self, children: Sequence[dict[str, Any]], negated: bool) -> _Condition:
        term, *values = map(self._operand, children)
        if not isinstance(term, _Term) or any(isinstance(value, _Term) for value in values):
            raise _Unfit("IN asks for a column and a list of constants")
        literals = [_literal(term, value) for value in values if not isinstance(value, _Term)]
        if term.holds in ("numbers", "truth values"):  # hashed lists know of no signed zeros
            equals = "<>" if negated else "="
            each = [_condition(f"{{}} {equals} {{}}", (term.lance, term.duckdb), one) for one in literals]
            return _join("AND" if negated else "OR", each)
        listed = (", ".join(one[0] for one in literals), ", ".join(one[1] for one in literals))
        if not negated:
            return _condition("{} IN ({})", (term.lance, term.duckdb), listed)
        # LanceDB takes x NOT IN (1) OR x NOT IN (2) for true where x is null
        there = _condition("{} IS NOT NULL", (term.lance, term.duckdb))
        return _join("AND", [there, _condition("{} NOT IN ({})", (term.lance, term.duckdb), listed)])

    def _comparison(self, node: dict[str, Any], negated: bool) -> _Condition:
        left, right = node["left"], node["right"]
        sign = _COMPARISONS.get(node["type"])
        if sign is not None:
            return self._compare(left, sign, right, negated)
        # IS [NOT] TRUE, IS [NOT] FALSE; of these DuckDB makes a cast and IS [NOT] DISTINCT FROM
        if left["class"] == "CAST" and left["type_expr"].get("type_name") == "BOOLEAN":
            left = left["child"]
        truth = self._operand(right) if right["class"] == "CONSTANT" else None
        if not isinstance(truth, bool):
            raise _Unfit("IS DISTINCT FROM is not allowed; write OR … IS NULL")
        inner = self.condition(left, negated=not truth)
        words = "IS TRUE" if (node["type"] == "COMPARE_NOT_DISTINCT_FROM") != negated else "IS NOT TRUE"
        if inner.depth >= MAX_DEPTH:
            raise _Unfit(f"it is nested more than {MAX_DEPTH} deep")
        return _Condition(f"({inner.lance}) {words}", f"({inner.duckdb}) {words}", "", inner.depth + 1)

    def _compare(self, left: dict[str, Any], sign: str, right: dict[str, Any], negated: bool) -> _Condition:
        """One of the six comparisons. Against TRUE or FALSE, the other side may be any condition."""
        sign = _NEGATED[sign] if negated else sign
        for truth, other in ((left, right), (right, left)):
            value = _constant(truth) if truth["class"] == "CONSTANT" else None
            if isinstance(value, bool) and sign in ("=", "<>"):
                return self.condition(other, negated=value == (sign == "<>"))
        first, second = self._operand(left), self._operand(right)
        if not isinstance(first, _Term):
            if isinstance(second, _Term):
                return self._compare(right, _TURNED[sign], left, negated=False)
            return _truth(_holds_between(first, sign, second))
        if isinstance(second, _Term):
            _require_alike(first, second, sign)
            pair = (second.lance, second.duckdb)
        else:
            pair = _literal(first, second, sign)
        return _condition(f"{{}} {sign} {{}}", (first.lance, first.duckdb), pair)

    def _like(self, node: dict[str, Any], negated: bool) -> _Condition:
        subject, pattern, *escape = self._arguments(node, 2, 3)
        says_not, any_case = _LIKES[node["function_name"]]
        term = self._text_term(subject, "LIKE")
        texts = [self._operand(one) for one in (pattern, *escape)]
        if not all(isinstance(one, str) for one in texts):
            raise _Unfit("LIKE asks for a pattern in quotes")
        wanted = _pattern(*map(str, texts))
        if any_case:
            term, wanted = _lowered(term), _lower(wanted)
        words = "NOT LIKE" if says_not != negated else "LIKE"
        duck = _string(wanted) + r" ESCAPE '\'"
        return _condition(f"{{}} {words} {{}}", (term.lance, term.duckdb), (_string(wanted), duck))

    def _search(self, node: dict[str, Any], negated: bool) -> _Condition:
        function = _SEARCHES[node["function_name"]]
        subject, wanted = self._arguments(node, 2)
        term, value = self._text_term(subject, f"{function}()"), self._operand(wanted)
        if not isinstance(value, str):
            raise _Unfit(f"{function}() asks for a column and a text in quotes")
        form = f"{'NOT ' if negated else ''}{function}({{}}, {{}})"
        return _condition(form, (term.lance, term.duckdb), (_string(value),) * 2)

    def _text_term(self, node: dict[str, Any], what: str) -> _Term:
        value = self._operand(node)
        if not isinstance(value, _Term) or value.holds != "text":
            raise _Unfit(f"{what} asks for a column of text, not for {_shown(value)}")
        return value

    def _operand(self, node: dict[str, Any]) -> _Term | _Constant:
        kind = node["class"]
        if kind == "COLUMN_REF":
            name = self._column(node)
            return _column_term(name, self._columns[name])
        if kind == "CONSTANT":
            return _constant(node)
        if kind == "CAST":
            return _cast(node)
        if kind == "FUNCTION" and node["function_name"] in ("lower", "length"):
            (argument,) = self._arguments(node, 1)
            value = self._operand(argument)
            if node["function_name"] == "lower" and isinstance(value, str):
                return _lower(value)
            term = self._text_term(argument, f"{node['function_name']}()")
            return _lowered(term) if node["function_name"] == "lower" else _length(term)
        what = {"SUBQUERY": "a subquery", "PARAMETER": "a parameter", "STAR": "*"}.get(kind)
        if kind in ("FUNCTION", "WINDOW"):
            what = f"the function or operator {node['function_name']}"
        raise _Unfit(f"{what or kind} is not allowed, only {_UNDERSTOOD}")

    def _arguments(self, node: dict[str, Any], *counts: int) -> list[dict[str, Any]]:
        """The arguments of a plain call: nothing but positions, no DISTINCT, FILTER, ORDER BY or schema."""
        given = node["arguments"]
        dressed = node.get("distinct") or node.get("filter") or node.get("schema") or node.get("catalog")
        orders = (node.get("order_bys") or {}).get("orders")
        if dressed or orders or len(given) not in counts or any(one.get("name") for one in given):
            raise _Unfit(f"{node['function_name']}() is not called as expected")
        return [one["expression"] for one in given]

    def _column(self, node: dict[str, Any]) -> str:
        names = node["column_names"]
        if len(names) != 1:
            raise _Unfit(f"{'.'.join(names)}: expected the bare name of a column")
        name = str(names[0])
        found = [one for one in self._columns if _folded(one) == _folded(name)]
        if len(found) > 1:
            raise _Unfit(f"{name} may mean any of {', '.join(found)}")
        if not found:
            folded = {_folded(one).decode(): one for one in self._columns if one != "vector"}
            near = difflib.get_close_matches(_folded(name).decode(), folded, n=3, cutoff=0.5)
            hint = f"; the nearest: {', '.join(folded[one] for one in near)}" if near else ""
            raise _Unfit(f"there is no column {name}{hint} (texts go in 'single quotes')")
        if found[0] == "vector":
            raise _Unfit("the vector is what the search goes by; filter by another column")
        return found[0]


def _folded(name: str) -> bytes:
    """Like SQL compares names: without regard to the case of ASCII letters."""
    return name.encode().lower()


def _holds(kind: pa.DataType) -> str:
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


def _column_term(name: str, kind: pa.DataType) -> _Term:
    holds, lance, duck = _holds(kind), _lance_name(name), _duckdb_name(name)
    if holds not in _LITERALS:
        raise _Unfit(f"{name} is {holds}, of which a filter can only ask IS NULL")
    if holds == "numbers":  # one NaN, above all numbers, and one zero
        lance = f"nanvl(CAST({lance} AS DOUBLE) + 0.0, CAST('NaN' AS DOUBLE))"
        duck = f"CAST({duck} AS DOUBLE)"
    elif holds == "timestamps":  # as whole numbers: casts between units fail far from 1970
        lance = f"CAST({lance} AS BIGINT)"
        duck = f"epoch_ns({duck})" if kind.unit == "ns" else f"epoch_us({duck})"
    return _Term(name, kind, holds, lance, duck)


def _lowered(term: _Term) -> _Term:
    """Lower case letter by letter, as DuckDB has it: LanceDB's heeds the place of a sigma in its word."""
    if term.lance.startswith("lower("):
        return term
    lance = f"lower(replace(replace({term.lance}, 'İ', 'i'), 'Σ', 'σ'))"
    return _Term(f"lower({term.name})", term.kind, term.holds, lance, f"lower({term.duckdb})")


def _lower(text: str) -> str:
    return "".join("i" if letter == "İ" else letter.lower() for letter in text)


def _length(term: _Term) -> _Term:
    """Number of code points."""
    lance, duck = f"length({term.lance})", f"length({term.duckdb})"
    return _Term(f"length({term.name})", pa.int32(), "whole numbers", lance, duck)


def _constant(node: dict[str, Any]) -> _Constant:
    kind, text = node["literal"]["kind"], str(node["literal"].get("text", ""))
    if kind == "STRING":
        return text
    if kind == "BOOLEAN":
        return text == "true"
    if kind in ("INTEGER", "NUMERIC"):
        number = Decimal(text.replace("_", ""))
        if abs(number.adjusted()) > 400:
            raise _Unfit(f"{text} is beyond all columns")
        return number
    if kind == "NULL_LITERAL":
        raise _Unfit("nothing equals NULL; ask IS NULL or IS NOT NULL")
    raise _Unfit(f"constants of kind {kind} are not allowed")


def _cast(node: dict[str, Any]) -> _Constant:
    """A constant with its type: DATE '…', TIMESTAMP '…', 'NaN'::DOUBLE."""
    wanted = str(node["type_expr"].get("type_name", "")).upper()
    if node.get("try_cast") or node["child"]["class"] != "CONSTANT" or node["type_expr"].get("children"):
        raise _Unfit("only constants can be cast, to DATE, TIMESTAMP, TIMESTAMPTZ or DOUBLE")
    value = _constant(node["child"])
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
            raise _Unfit(f"{value!r} is not a number") from None
    raise _Unfit(
        f"{_shown(value)} cannot be cast to {wanted}, only to DATE, TIMESTAMP, TIMESTAMPTZ or DOUBLE"
    )


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise _Unfit(f"expected a date like '2026-01-31', got {text!r}") from None


def _moment(text: str) -> dt.datetime:
    try:
        if re.search(r"\.\d{7}", text):
            raise ValueError
        return dt.datetime.fromisoformat(text)
    except ValueError:
        like = "'2026-01-31', '2026-01-31 12:00:00.5' or '2026-01-31 12:00:00+01:00'"
        raise _Unfit(f"expected a time like {like}, got {text!r}") from None


def _require_alike(first: _Term, second: _Term, sign: str) -> None:
    typed = ("decimals", "timestamps")
    if first.holds != second.holds or (first.holds in typed and first.kind != second.kind):
        raise _Unfit(f"{first.name} holds {first.kind} and {second.name} {second.kind}: no comparing them")
    if first.holds == "truth values" and sign not in ("=", "<>"):
        raise _Unfit(f"{first.name} holds truth values, which have no order")


def _holds_between(first: _Constant, sign: str, second: _Constant) -> bool:
    """Whether the comparison of two constants is true."""
    pair: tuple[Any, Any] = (first, second)
    if isinstance(first, str) and isinstance(second, str):
        pair = (first.encode(), second.encode())
    elif type(first) is not type(second) or isinstance(first, float | dt.datetime):
        raise _Unfit(f"there is no comparing {_shown(first)} with {_shown(second)}")
    return bool(_OPERATORS[sign](*pair))


def _literal(term: _Term, value: _Constant, sign: str = "=") -> _Pair:
    """The constant in the SQL of both engines, exactly as the column's type would hold it."""
    if term.holds == "truth values" and sign not in ("=", "<>"):
        raise _Unfit(f"{term.name} holds truth values, which have no order")
    found = _LITERALS[term.holds](term, value)
    if found is None:
        quotes = " (texts go in 'single quotes')" if term.holds == "text" else ""
        raise _Unfit(f"{term.name} holds {term.holds} ({term.kind}), not {_shown(value)}{quotes}")
    return found


def _text_literal(term: _Term, value: _Constant) -> _Pair | None:
    return (_string(value), _string(value)) if isinstance(value, str) else None


def _whole_literal(term: _Term, value: _Constant) -> _Pair | None:
    if not isinstance(value, Decimal) or Fraction(value).denominator != 1:
        return None
    number, bits = int(value), term.kind.bit_width
    signed = pa.types.is_signed_integer(term.kind)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    if not low <= number < high:
        raise _Unfit(f"{term.name} holds {term.kind}, from {low} to {high - 1}; {value} is beyond")
    return _integer(number), str(number)


def _float_literal(term: _Term, value: _Constant) -> _Pair | None:
    if isinstance(value, bool) or not isinstance(value, Decimal | float):
        return None
    number = float(value) + 0.0
    try:
        if pa.types.is_float32(term.kind):  # 0.1 then means what such a column holds for it
            number = struct.unpack("f", struct.pack("f", number))[0]
        if isinstance(value, Decimal) and math.isinf(number):
            raise OverflowError
    except OverflowError:
        raise _Unfit(f"{term.name} holds {term.kind}; {value} is beyond") from None
    if not math.isfinite(number):
        return (f"CAST('{number}' AS DOUBLE)",) * 2
    return (f"{number:.17e}",) * 2


def _decimal_literal(term: _Term, value: _Constant) -> _Pair | None:
    if not isinstance(value, Decimal):
        return None
    precision, scale = term.kind.precision, term.kind.scale
    shifted = Fraction(value) * Fraction(10) ** scale
    if shifted.denominator != 1 or abs(shifted) >= 10**precision:
        raise _Unfit(f"{term.name} holds decimals ({precision}, {scale}), not {value}")
    exact = f"{Decimal(f'{int(shifted)}E{-scale}'):f}"  # arithmetic would round to 28 digits
    return (f"CAST('{exact}' AS DECIMAL({precision}, {scale}))",) * 2


def _date_literal(term: _Term, value: _Constant) -> _Pair | None:
    value = _date(value) if isinstance(value, str) else value
    if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
        return None
    return (f"DATE '{value.isoformat()}'",) * 2


def _moment_literal(term: _Term, value: _Constant) -> _Pair | None:
    moment = _moment(value) if isinstance(value, str) else value
    if isinstance(moment, dt.date) and not isinstance(moment, dt.datetime):
        moment = dt.datetime.combine(moment, dt.time())
    if not isinstance(moment, dt.datetime):
        return None
    if moment.tzinfo is not None and term.kind.tz is None:
        raise _Unfit(f"the times in {term.name} have no zone, but {_shown(value)} has one")
    since = moment.replace(tzinfo=None) - _EPOCH - (moment.utcoffset() or dt.timedelta())
    microseconds = since // dt.timedelta(microseconds=1)
    units = Fraction(microseconds, 10**6) * _PER_SECOND[term.kind.unit]
    if units.denominator != 1 or not -(2**63) <= units < 2**63:
        raise _Unfit(f"{term.name} holds {term.kind}, which cannot hold {_shown(value)}")
    return _integer(int(units)), str(int(units) if term.kind.unit == "ns" else microseconds)


_LITERALS: dict[str, Callable[[_Term, _Constant], _Pair | None]] = {
    "text": _text_literal,
    "whole numbers": _whole_literal,
    "numbers": _float_literal,
    "decimals": _decimal_literal,
    "truth values": lambda _, value: (str(value).upper(),) * 2 if isinstance(value, bool) else None,
    "dates": _date_literal,
    "timestamps": _moment_literal,
}


def _pattern(pattern: str, escape: str = "") -> str:
    r"""A LIKE pattern in which `\` escapes: by itself LanceDB has that escape, and DuckDB none."""
    if len(escape) > 1:
        raise _Unfit(f"ESCAPE asks for one character, not {escape!r}")
    written, letters = [], iter(pattern)
    for letter in letters:
        if letter != escape:
            written.append(r"\\" if letter == "\\" else letter)
            continue
        escaped = next(letters, None)
        if escaped is None or escaped not in ("%", "_", escape):
            raise _Unfit(f"in a LIKE pattern {escape!r} stands before %, _ or itself only")
        written.append("\\" + escaped if escaped in ("%", "_", "\\") else escaped)
    return "".join(written)


def _join(word: str, parts: Sequence[_Condition]) -> _Condition:
    """Parts under one AND or OR, flat where they are of the same word."""
    apart = [part.joined not in ("", word) for part in parts]
    depth = max(part.depth + bracketed for part, bracketed in zip(parts, apart, strict=True))
    if depth > MAX_DEPTH:
        raise _Unfit(f"it is nested more than {MAX_DEPTH} deep")
    pairs = list(zip(parts, apart, strict=True))
    lance = f" {word} ".join(f"({part.lance})" if bracketed else part.lance for part, bracketed in pairs)
    duck = f" {word} ".join(f"({part.duckdb})" if bracketed else part.duckdb for part, bracketed in pairs)
    return _Condition(lance, duck, word, depth)


def _condition(form: str, *operands: _Pair) -> _Condition:
    return _Condition(form.format(*(o[0] for o in operands)), form.format(*(o[1] for o in operands)))


def _truth(value: bool) -> _Condition:
    return _Condition(str(value).upper(), str(value).upper())


def _shown(value: object) -> str:
    if isinstance(value, _Term):
        return value.name
    if isinstance(value, bool):
        return str(value).upper()
    return str(value) if isinstance(value, Decimal | float) else repr(str(value))


def _integer(number: int) -> str:
    """For LanceDB, which reads the least 64-bit number as minus a number that is none."""
    return str(number) if number > -(2**63) else f"CAST('{number}' AS BIGINT)"


def _string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _lance_name(name: str) -> str:
    if "`" in name:
        raise _Unfit(f"LanceDB cannot filter by a name with a backtick, like {name}")
    return f"`{name}`"


def _duckdb_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

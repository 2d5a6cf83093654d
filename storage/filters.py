"""The filter of a search: one SQL condition over the columns, taken apart and written anew.

What a person gives is parsed by DuckDB and walked with a list of what is allowed; nothing of it is
pasted into a query. LanceDB and DuckDB mean different things by some equal words (backslashes in LIKE,
final sigmas, signed NaNs, times of other units), so each gets its own SQL for the one meaning.
"""

import difflib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from storage import terms
from storage.errors import QueryRefused
from storage.terms import Constant, Pair, Term, Unfit

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 12
"""AND in OR in AND …: LanceDB's parser stops at about 20."""

_UNDERSTOOD = (
    "columns compared with constants (= <> < <= > >= BETWEEN, IN), LIKE, ILIKE, IS NULL, AND, OR, NOT, "
    "lower(), length(), starts_with() and contains()"
)
_NEGATED = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
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
    except Unfit as unfit:
        problem = str(unfit)
    except RecursionError:
        problem = "it is nested too deeply"
    else:
        return Filter(condition.lance, condition.duckdb)
    given = text if len(text) <= 200 else text[:200] + "…"
    usable = ", ".join(f"{name} ({terms.holds(kind)})" for name, kind in columns.items() if name != "vector")
    raise QueryRefused(f"cannot filter by {given!r}: {problem}. Columns: {usable or 'none'}")


def every(conditions: Sequence[Filter]) -> Filter:
    """The filter that admits what all of some (at least one) admit."""
    return Filter(
        " AND ".join(f"({one.lance})" for one in conditions),
        " AND ".join(f"({one.duckdb})" for one in conditions),
    )


@dataclass(frozen=True)
class _Condition:
    """Something true, false or null of a row; `joined` is the AND or OR that it consists of, if any."""

    lance: str
    duckdb: str
    joined: str = ""
    depth: int = 0


def _tree(text: str) -> dict[str, Any]:
    """The condition as DuckDB's parser understands it."""
    if len(text) > MAX_CHARACTERS:
        raise Unfit(f"it has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    if not text.strip():
        raise Unfit("it is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unfit("it is not valid Unicode") from None
    if any(kind == duckdb.token_type.comment for _, kind in duckdb.tokenize(text)):
        raise Unfit("comments are not allowed")
    # What parses both bare and in brackets is one expression: bare, it cannot close the brackets around
    # it, and in brackets nothing can follow it, not even what leaves no trace in the tree (WINDOW)
    with _parser().cursor() as cursor:
        bare = _parsed(cursor, f"SELECT 1 FROM t WHERE {text}")
        _parsed(cursor, f"SELECT 1 FROM t WHERE (\n{text}\n)")
    node = bare.pop("where_clause")
    expected = {"type": "SELECT_NODE", "aggregate_handling": "STANDARD_HANDLING"}
    beside = {k: v for k, v in bare.items() if k not in ("select_list", "from_table") and v}
    if beside.pop("cte_map") != {"map": []} or beside != expected:
        raise Unfit("expected one condition and nothing behind it")
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
        raise Unfit(tree["error_message"] + (hint if "syntax error" in tree["error_message"] else ""))
    statements = tree["statements"]
    node = statements[0]["node"]
    if len(statements) != 1 or node["type"] != "SELECT_NODE" or not node.get("where_clause"):
        raise Unfit("expected one condition")
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
        if isinstance(value, Term) and value.holds == "truth values":
            return _condition("NOT {}" if negated else "{}", (value.lance, value.duckdb))
        if isinstance(value, bool):
            return _truth(value != negated)
        raise Unfit(f"expected a condition, got {terms.shown(value)}")

    def _operator(self, node: dict[str, Any], negated: bool) -> _Condition:
        children, kind = node["children"], node["type"]
        if kind == "OPERATOR_NOT":
            return self.condition(children[0], not negated)
        if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            is_null = (kind == "OPERATOR_IS_NULL") != negated
            return _condition("{} IS NULL" if is_null else "{} IS NOT NULL", self._nullable(children[0]))
        if kind in ("COMPARE_IN", "COMPARE_NOT_IN"):
            return self._membership(children, negated != (kind == "COMPARE_NOT_IN"))
        raise Unfit(f"{kind} is not allowed, only {_UNDERSTOOD}")

    def _nullable(self, node: dict[str, Any]) -> Pair:
        if node["class"] == "COLUMN_REF":  # of any type
            name = self._column(node)
            return terms.lance_name(name), terms.duckdb_name(name)
        value = self._operand(node)
        if not isinstance(value, Term):
            raise Unfit(f"IS NULL asks for a column, not for {terms.shown(value)}")
        return value.lance, value.duckdb

    def _membership(self, children: Sequence[dict[str, Any]], negated: bool) -> _Condition:
        term, *values = map(self._operand, children)
        if not isinstance(term, Term) or any(isinstance(value, Term) for value in values):
            raise Unfit("IN asks for a column and a list of constants")
        literals = [terms.literal(term, value) for value in values if not isinstance(value, Term)]
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
            raise Unfit("IS DISTINCT FROM is not allowed; write OR … IS NULL")
        inner = self.condition(left, negated=not truth)
        words = "IS TRUE" if (node["type"] == "COMPARE_NOT_DISTINCT_FROM") != negated else "IS NOT TRUE"
        if inner.depth >= MAX_DEPTH:
            raise Unfit(f"it is nested more than {MAX_DEPTH} deep")
        return _Condition(f"({inner.lance}) {words}", f"({inner.duckdb}) {words}", "", inner.depth + 1)

    def _compare(self, left: dict[str, Any], sign: str, right: dict[str, Any], negated: bool) -> _Condition:
        """One of the six comparisons. Against TRUE or FALSE, the other side may be any condition."""
        sign = _NEGATED[sign] if negated else sign
        for truth, other in ((left, right), (right, left)):
            value = terms.constant(truth) if truth["class"] == "CONSTANT" else None
            if isinstance(value, bool) and sign in ("=", "<>"):
                return self.condition(other, negated=value == (sign == "<>"))
        first, second = self._operand(left), self._operand(right)
        if not isinstance(first, Term):
            if isinstance(second, Term):
                return self._compare(right, _TURNED[sign], left, negated=False)
            return _truth(terms.holds_between(first, sign, second))
        if isinstance(second, Term):
            terms.require_alike(first, second, sign)
            pair = (second.lance, second.duckdb)
        else:
            pair = terms.literal(first, second, sign)
        return _condition(f"{{}} {sign} {{}}", (first.lance, first.duckdb), pair)

    def _like(self, node: dict[str, Any], negated: bool) -> _Condition:
        subject, pattern, *escape = self._arguments(node, 2, 3)
        says_not, any_case = _LIKES[node["function_name"]]
        term = self._text_term(subject, "LIKE")
        texts = [self._operand(one) for one in (pattern, *escape)]
        if not all(isinstance(one, str) for one in texts):
            raise Unfit("LIKE asks for a pattern in quotes")
        wanted = _pattern(*map(str, texts))
        if any_case:
            term, wanted = terms.lowered(term), terms.lower(wanted)
        words = "NOT LIKE" if says_not != negated else "LIKE"
        duck = terms.string(wanted) + r" ESCAPE '\'"
        return _condition(f"{{}} {words} {{}}", (term.lance, term.duckdb), (terms.string(wanted), duck))

    def _search(self, node: dict[str, Any], negated: bool) -> _Condition:
        function = _SEARCHES[node["function_name"]]
        subject, wanted = self._arguments(node, 2)
        term, value = self._text_term(subject, f"{function}()"), self._operand(wanted)
        if not isinstance(value, str):
            raise Unfit(f"{function}() asks for a column and a text in quotes")
        form = f"{'NOT ' if negated else ''}{function}({{}}, {{}})"
        return _condition(form, (term.lance, term.duckdb), (terms.string(value),) * 2)

    def _text_term(self, node: dict[str, Any], what: str) -> Term:
        value = self._operand(node)
        if not isinstance(value, Term) or value.holds != "text":
            raise Unfit(f"{what} asks for a column of text, not for {terms.shown(value)}")
        return value

    def _operand(self, node: dict[str, Any]) -> Term | Constant:
        kind = node["class"]
        if kind == "COLUMN_REF":
            name = self._column(node)
            return terms.column_term(name, self._columns[name])
        if kind == "CONSTANT":
            return terms.constant(node)
        if kind == "CAST":
            return terms.cast(node)
        if kind == "FUNCTION" and node["function_name"] in ("lower", "length"):
            (argument,) = self._arguments(node, 1)
            value = self._operand(argument)
            if node["function_name"] == "lower" and isinstance(value, str):
                return terms.lower(value)
            term = self._text_term(argument, f"{node['function_name']}()")
            return terms.lowered(term) if node["function_name"] == "lower" else terms.length(term)
        what = {"SUBQUERY": "a subquery", "PARAMETER": "a parameter", "STAR": "*"}.get(kind)
        if kind in ("FUNCTION", "WINDOW"):
            what = f"the function or operator {node['function_name']}"
        raise Unfit(f"{what or kind} is not allowed, only {_UNDERSTOOD}")

    def _arguments(self, node: dict[str, Any], *counts: int) -> list[dict[str, Any]]:
        """The arguments of a plain call: nothing but positions, no DISTINCT, FILTER, ORDER BY or schema."""
        given = node["arguments"]
        dressed = node.get("distinct") or node.get("filter") or node.get("schema") or node.get("catalog")
        orders = (node.get("order_bys") or {}).get("orders")
        if dressed or orders or len(given) not in counts or any(one.get("name") for one in given):
            raise Unfit(f"{node['function_name']}() is not called as expected")
        return [one["expression"] for one in given]

    def _column(self, node: dict[str, Any]) -> str:
        names = node["column_names"]
        if len(names) != 1:
            raise Unfit(f"{'.'.join(names)}: expected the bare name of a column")
        name = str(names[0])
        found = [one for one in self._columns if _folded(one) == _folded(name)]
        if len(found) > 1:
            raise Unfit(f"{name} may mean any of {', '.join(found)}")
        if not found:
            folded = {_folded(one).decode(): one for one in self._columns if one != "vector"}
            near = difflib.get_close_matches(_folded(name).decode(), folded, n=3, cutoff=0.5)
            hint = f"; the nearest: {', '.join(folded[one] for one in near)}" if near else ""
            raise Unfit(f"there is no column {name}{hint} (texts go in 'single quotes')")
        if found[0] == "vector":
            raise Unfit("the vector is what the search goes by; filter by another column")
        return found[0]


def _folded(name: str) -> bytes:
    """Like SQL compares names: without regard to the case of ASCII letters."""
    return name.encode().lower()


def _pattern(pattern: str, escape: str = "") -> str:
    r"""A LIKE pattern in which `\` escapes: by itself LanceDB has that escape, and DuckDB none."""
    if len(escape) > 1:
        raise Unfit(f"ESCAPE asks for one character, not {escape!r}")
    written, letters = [], iter(pattern)
    for letter in letters:
        if letter != escape:
            written.append(r"\\" if letter == "\\" else letter)
            continue
        escaped = next(letters, None)
        if escaped is None or escaped not in ("%", "_", escape):
            raise Unfit(f"in a LIKE pattern {escape!r} stands before %, _ or itself only")
        written.append("\\" + escaped if escaped in ("%", "_", "\\") else escaped)
    return "".join(written)


def _join(word: str, parts: Sequence[_Condition]) -> _Condition:
    """Parts under one AND or OR, flat where they are of the same word."""
    apart = [part.joined not in ("", word) for part in parts]
    depth = max(part.depth + bracketed for part, bracketed in zip(parts, apart, strict=True))
    if depth > MAX_DEPTH:
        raise Unfit(f"it is nested more than {MAX_DEPTH} deep")
    pairs = list(zip(parts, apart, strict=True))
    lance = f" {word} ".join(f"({part.lance})" if bracketed else part.lance for part, bracketed in pairs)
    duck = f" {word} ".join(f"({part.duckdb})" if bracketed else part.duckdb for part, bracketed in pairs)
    return _Condition(lance, duck, word, depth)


def _condition(form: str, *operands: Pair) -> _Condition:
    return _Condition(form.format(*(o[0] for o in operands)), form.format(*(o[1] for o in operands)))


def _truth(value: bool) -> _Condition:
    return _Condition(str(value).upper(), str(value).upper())

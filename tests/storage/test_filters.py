"""A filter means one thing, in LanceDB and in DuckDB; what is not a condition over the columns is refused."""

import datetime as dt
import math
import operator
import random
import re
from decimal import Decimal

import duckdb
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import QueryRefused
from storage.filters import MAX_CHARACTERS, MAX_DEPTH, Filter, parse

UTC = dt.UTC
NEGATIVE_NAN = np.array([0xFFF8 << 48], np.uint64).view(np.float64)[0]
TEXTS = [
    "", "a", "A", "ab", "o'b", 'q"x', "back\\slash", "\\", "%", "50%_", "_", "nul\0x", "line\nbreak",
    "straße", "STRASSE", "ΟΔΟΣ", "οδος", "οδοσ", "İstanbul", "istanbul", "ÉTÉ", "été", "e\u0301te\u0301",
    "😀", "日本語", "x" * 300, "`tick`", "NULL", "--", "1",
]  # fmt: skip
INTEGERS = [0, 1, -1, 2, 5, 127, -128, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.5, -1.5, 0.1, 1e300, -1e300, 5e-324, math.inf, -math.inf, math.nan, NEGATIVE_NAN]
DAYS = [
    dt.date(1, 1, 1),
    dt.date(1969, 12, 31),
    dt.date(1970, 1, 1),
    dt.date(2024, 2, 29),
    dt.date(9999, 12, 31),
]
MOMENTS = [dt.datetime(d.year, d.month, d.day, 23, 59, 59, us, UTC) for d in DAYS for us in (0, 1, 999_999)]
NAIVE = [m.replace(tzinfo=None, microsecond=0) for m in MOMENTS]
NEAR = [dt.datetime(1970, 1, 1), dt.datetime(1969, 12, 31, 23, 59, 59, 999_999), dt.datetime(2024, 2, 29, 12)]
DECIMALS = [Decimal(text) for text in ("0.00", "1.50", "-2.00", "99999999.99", "0.01", "1.51")]
VALUES = {
    "item_id": (pa.string(), TEXTS),
    "Long Text": (pa.large_string(), TEXTS),
    "chunk_no": (pa.int32(), [n for n in INTEGERS if abs(n) < 2**31]),
    'Größe "x"': (pa.int64(), INTEGERS),
    "tiny": (pa.int8(), [n for n in INTEGERS if -129 < n < 128]),
    "huge": (pa.uint64(), [n for n in INTEGERS if n >= 0] + [2**64 - 1]),
    "select": (pa.float64(), FLOATS),
    "it's": (pa.float32(), [np.float32(x) for x in FLOATS if not 1e38 < abs(x) < math.inf]),
    "ok": (pa.bool_(), [True, False]),
    "day": (pa.date32(), DAYS),
    "seen": (pa.timestamp("us", "UTC"), MOMENTS),
    "local time": (pa.timestamp("s"), NAIVE),
    "nano": (pa.timestamp("ns"), NEAR),
    "price": (pa.decimal128(10, 2), DECIMALS),
}
COLUMNS = {
    "row": pa.int64(), **{name: kind for name, (kind, _) in VALUES.items()},
    "tags": pa.list_(pa.string()), "shape": pa.struct([("w", pa.int32())]),
    "vector": pa.list_(pa.float32(), 2),
}  # fmt: skip
ROWS = 200
OPERATORS = {
    "=": operator.eq, "<>": operator.ne, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Engines:
    """The same rows in LanceDB, DuckDB and Python; each answers a filter by the numbers of its rows."""

    def __init__(self, folder, table):
        self.rows = {name: table[name].to_pylist() for name in VALUES if name in table.column_names}
        self.table, self.count = lancedb.connect(folder).create_table("t", table), table.num_rows
        self.duck = duckdb.connect(":memory:")
        self.duck.register("t", table.drop_columns(["vector"]))

    def lance(self, asked):
        query = self.table.search([1.0, 0.0]).where(asked.lance, prefilter=True).limit(self.count + 1)
        return sorted(query.select(["row", "_distance"]).to_arrow()["row"].to_pylist())

    def duckdb(self, asked):
        return sorted(n for (n,) in self.duck.execute(f"SELECT row FROM t WHERE {asked.duckdb}").fetchall())

    def both(self, text, columns=COLUMNS):
        """The rows, which are the same from both."""
        asked = parse(text, columns)
        found = self.lance(asked)
        assert found == self.duckdb(asked), asked
        return found


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    dice = random.Random(4)
    columns = {"row": pa.array(range(ROWS), pa.int64())}
    for name, (kind, values) in VALUES.items():
        drawn = [None if dice.random() < 0.1 else dice.choice(values) for _ in range(ROWS)]
        columns[name] = pa.array(drawn, kind)
    columns["tags"] = pa.array([None, [], ["a"], [None]] * (ROWS // 4), COLUMNS["tags"])
    columns["shape"] = pa.array([None, {"w": 1}, {"w": None}, {"w": 2}] * (ROWS // 4), COLUMNS["shape"])
    columns["vector"] = pa.array([[1.0, 0.0]] * ROWS, COLUMNS["vector"])
    engines = Engines(tmp_path_factory.mktemp("lance"), pa.table(columns))
    yield engines
    engines.duck.close()


def constant(value):
    """The value as a person may write it."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, dt.date):
        return f"'{value.isoformat()}'"
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return f"'{value}'::DOUBLE"
    return repr(float(value)) if isinstance(value, np.floating) else str(value)


def ordered(value):
    """What the value is compared by: SQL's texts by their bytes, NaN above all numbers."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, float | np.floating):
        return (math.isnan(value), 0.0 if math.isnan(value) else float(value))
    return value


def lower(text):
    return "".join({"İ": "i"}.get(c, c.lower()) for c in text)


def known(name, holds):
    """Of a row by number: null where the column is, else what `holds` says of its value."""
    return lambda rows, n: None if rows[name][n] is None else holds(rows[name][n])


@st.composite
def leaves(draw):
    """A condition on one column: its SQL, and whether it is true, false or null of a row."""
    name = draw(st.sampled_from(list(VALUES)))
    _, values = VALUES[name]
    column = '"' + name.replace('"', '""') + '"'
    some = [v.item() if isinstance(v, np.float64) else v for v in values]
    one = st.sampled_from(some)
    if name in ("item_id", "Long Text") and draw(st.booleans()):
        return draw(of_text(name, column))
    form = draw(st.sampled_from(["null", "compare", "turned", "in", "between"]))
    if form == "null":
        words = draw(st.sampled_from(["IS NULL", "IS NOT NULL"]))
        return f"{column} {words}", lambda rows, n: (rows[name][n] is None) == (words == "IS NULL")
    if name == "ok":
        wanted = draw(st.booleans())
        return draw(st.sampled_from([
            ("ok", known(name, bool)),
            (f"ok = {wanted}", known(name, lambda v: v == wanted)),
            (f"{wanted} <> ok", known(name, lambda v: v != wanted)),
            (f"ok IS {wanted}", lambda rows, n: rows[name][n] is wanted),
            (f"ok IS NOT {wanted}", lambda rows, n: rows[name][n] is not wanted),
            (f"ok IN ({wanted})", known(name, lambda v: v == wanted)),
        ]))  # fmt: skip
    if form == "in":
        listed = draw(st.lists(one, min_size=1, max_size=12))
        holds = known(name, lambda v: ordered(v) in [ordered(x) for x in listed])
        return f"{column} IN ({', '.join(map(constant, listed))})", holds
    if form == "between":
        low, high = draw(one), draw(one)
        holds = known(name, lambda v: ordered(low) <= ordered(v) <= ordered(high))
        return f"{column} BETWEEN {constant(low)} AND {constant(high)}", holds
    sign, value = draw(st.sampled_from(list(OPERATORS))), draw(one)
    if form == "compare":
        return f"{column} {sign} {constant(value)}", known(
            name, lambda v: OPERATORS[sign](ordered(v), ordered(value))
        )
    return f"{constant(value)} {sign} {column}", known(
        name, lambda v: OPERATORS[sign](ordered(value), ordered(v))
    )


@st.composite
def of_text(draw, name, column):
    """A condition on a text by its parts."""
    text = draw(st.sampled_from(TEXTS))
    part = text[draw(st.integers(0, 3)) :][: draw(st.integers(0, 4))]
    form = draw(st.sampled_from(["starts_with", "contains", "length", "lower", "like"]))
    if form == "starts_with":
        return f"starts_with({column}, {constant(part)})", known(name, lambda v: v.startswith(part))
    if form == "contains":
        return f"contains({column}, {constant(part)})", known(name, lambda v: part in v)
    if form == "length":
        return f"length({column}) <= {len(text)}", known(name, lambda v: len(v) <= len(text))
    if form == "lower":
        return f"lower({column}) = lower({constant(text)})", known(name, lambda v: lower(v) == lower(text))
    pattern = draw(st.lists(st.sampled_from(["%", "_", *part]), max_size=5))
    word, turned = draw(st.sampled_from(["LIKE", "ILIKE"])), draw(st.booleans())
    cased = lower if word == "ILIKE" else str
    wild = {"%": ".*", "_": "."}
    whole = re.compile("".join(wild.get(c) or re.escape(cased(c)) for c in pattern), re.DOTALL)
    holds = known(name, lambda v: (whole.fullmatch(cased(v)) is None) == turned)
    return f"{column} {'NOT ' if turned else ''}{word} {constant(''.join(pattern))}", holds


def negation(inner):
    return f"NOT ({inner[0]})", lambda rows, n: None if (v := inner[1](rows, n)) is None else not v


def conjunction(parts):
    def holds(rows, n):
        values = [part[1](rows, n) for part in parts]
        return False if False in values else None if None in values else True

    return " AND ".join(f"({part[0]})" for part in parts), holds


def disjunction(parts):
    def holds(rows, n):
        values = [part[1](rows, n) for part in parts]
        return True if True in values else None if None in values else False

    return " OR ".join(f"({part[0]})" for part in parts), holds


def composed(inner):
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(inner.map(negation), several.map(conjunction), several.map(disjunction))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(asked=st.recursive(leaves(), composed, max_leaves=6))
def test_both_engines_return_the_rows_of_which_the_filter_is_true(engines, asked):
    """LanceDB, DuckDB and a plain evaluation in Python agree on every row, nulls and odd values included."""
    text, holds = asked
    expected = [n for n in range(ROWS) if holds(engines.rows, n) is True]
    assert engines.both(text) == expected


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("id = 1 OR 1=1", [0, 1, 2, 3, 4]),  # the filter is its author's to widen
        ("ID = 1 AND 'a' = 'b'", []),
        ("name = '''; DROP TABLE t; --'", [1]),
        ("NAME IN ('x', ''') OR 1=1 --')", []),
        ("name = E'tab\\t' OR name = $$plain$$", [2, 3]),
        ("name ILIKE 'ΟΔΟσ'", [4]),  # a sigma that ends a word
        ("lower(name) LIKE 'οδο_'", [4]),
        ("price = 0.1", [0]),  # what a float32 column holds for 0.1
        ("price = 1e0 OR price = 1_000", [1, 2]),
        ("price > 1e38", [3]),  # NaN is above all numbers, whatever its sign
        ("price < 0", []),
        ("price = 'NaN'::DOUBLE", [3]),
        ("price = double", [4]),  # 0.0 and -0.0
        ("seen < '2024-01-01'", [0]),  # UTC
        ("seen = '2024-01-01 01:00:00+01:00'", [1]),
        ("seen >= TIMESTAMPTZ '2024-01-01 00:00:00.000001' AND seen < DATE '9999-12-31'", [2]),
        ("day BETWEEN DATE '2024-01-01' AND '2024-12-31'", [1, 2]),
        ("day = seen OR id = 1", None),
        ("cents IN (1.5, 2)", [1, 2]),
        ("tags IS NULL OR lower(name) IS NULL", [0]),
        ("(id < 3) IS NOT TRUE", [3, 4]),
        ("id = -9223372036854775808 OR id = +1", None),
    ],
)
def test_a_filter_means_what_sql_means(tmp_path, text, rows):
    """Known filters over known rows; None: refused."""
    moments = [dt.datetime(2023, 12, 31, 23, tzinfo=UTC), dt.datetime(2024, 1, 1, tzinfo=UTC)]
    table = pa.table(
        {
            "row": range(5),
            "id": range(5),
            "name": ["o'b", "'; DROP TABLE t; --", "tab\t", "plain", "ΟΔΟΣ"],
            "price": pa.array([0.1, 1.0, 1000.0, NEGATIVE_NAN, -0.0], pa.float32()),
            "double": [-1.0, -1.0, -1.0, -1.0, 0.0],
            "seen": pa.array([*moments, dt.datetime(2024, 1, 2, tzinfo=UTC), None, None], COLUMNS["seen"]),
            "day": pa.array([*(dt.date(2023 + n, 6, 1) for n in (0, 1, 1, 2)), None]),
            "cents": pa.array([Decimal("1.51"), Decimal("1.50"), Decimal(2), None, None], COLUMNS["price"]),
            "tags": pa.array([None, [], ["a"], [], []], COLUMNS["tags"]),
            "vector": pa.array([[1.0, 0.0]] * 5, COLUMNS["vector"]),
        }
    )
    engines = Engines(tmp_path, table)
    columns = {field.name: field.type for field in table.schema}
    if rows is None:
        with pytest.raises(QueryRefused):
            parse(text, columns)
    else:
        assert engines.both(text, columns) == rows
    engines.duck.close()


def test_letters_are_lowered_alike(tmp_path):
    """Every letter with another lower case is found by it in both engines, at the end of a word, too."""
    letters = [c for c in map(chr, range(0x250, 0x600)) if lower(c) != c] + ["É", "İ", "ẞ", "K", "Ω", "Σ"]
    table = pa.table(
        {
            "row": range(len(letters)),
            "name": [f"a{c}" for c in letters],
            "vector": pa.array([[1.0, 0.0]] * len(letters), COLUMNS["vector"]),
        }
    )
    engines = Engines(tmp_path, table)
    columns = {"name": pa.string()}
    listed = ", ".join(constant(lower(f"A{c}")) for c in letters)
    assert engines.both(f"lower(name) IN ({listed})", columns) == list(range(len(letters)))
    assert engines.both("name ILIKE 'aσ'", columns) == [n for n, c in enumerate(letters) if c == "Σ"]
    engines.duck.close()


def test_a_backslash_is_a_letter_unless_declared_to_escape(engines):
    """LIKE has no escape by itself, like in DuckDB; ESCAPE gives it one, which stands for the wildcards."""
    for text, wanted in (
        (r"item_id LIKE '\%'", ["\\"]),
        (r"item_id LIKE '%\s%'", ["back\\slash"]),
        (r"item_id LIKE '%!%%' ESCAPE '!'", ["%", "50%_"]),
        (r"item_id LIKE '50\%\_' ESCAPE '\'", ["50%_"]),
        ("item_id ILIKE '%!_' ESCAPE '!'", ["50%_", "_"]),
        (r"item_id LIKE '\_%'", []),
    ):
        found = {engines.rows["item_id"][row] for row in engines.both(text)}
        assert found == {v for v in engines.rows["item_id"] if v in wanted}, text


@pytest.mark.parametrize(
    "name",
    ["Capital", "sp ace", 'quo"te', "apo's", "naïve Ω", "select", "back\\slash", "a{0}b", "123", "; --",
    "📦", "("],
)  # fmt: skip
def test_columns_of_any_name_are_found(tmp_path, name):
    """Names come from the columns, in any quoting; only ASCII letters match in either case, like in SQL."""
    table = pa.table({"row": [0, 1], name: [1, 2], "vector": pa.array([[1.0, 0.0]] * 2, COLUMNS["vector"])})
    engines = Engines(tmp_path, table)
    columns = {field.name: field.type for field in table.schema}
    swapped = "".join(c.swapcase() if c.isascii() else c for c in name).replace('"', '""')
    assert engines.both(f'"{swapped}" = 2 AND "{swapped}" IS NOT NULL', columns) == [1]
    engines.duck.close()


def test_the_filter_is_applied_before_the_nearest_are_chosen(tmp_path):
    """A search with a filter returns as many hits as it was asked for, if that many rows hold."""
    angles = np.linspace(0, 3, 500)
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.column_stack([np.cos(angles), np.sin(angles)]).ravel(), pa.float32()), 2
    )
    table = lancedb.connect(tmp_path).create_table("t", pa.table({"n": range(500), "vector": vectors}))
    asked = parse("n >= 490", {"n": pa.int64()})
    found = table.search([1.0, 0.0]).where(asked.lance, prefilter=True).limit(5)
    assert found.select(["n", "_distance"]).to_arrow()["n"].to_pylist() == [490, 491, 492, 493, 494]


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1", "'x'", "ok,", "ok AND", "ok)", "ok) OR (ok", "(ok", "ok; SELECT 1", "ok;",
        "; DROP TABLE t",
        "ok'); DROP TABLE t", "ok -- and no more", "ok /* aside */", "/* */ ok", "ok /*", "ok UNION SELECT 1",
        "ok UNION ALL SELECT 1 FROM t WHERE ok", "ok EXCEPT SELECT 1", "ok GROUP BY ALL", "ok GROUP BY 1",
        "ok HAVING ok", "ok ORDER BY 1", "ok LIMIT 1", "ok LIMIT 1 OFFSET 1", "ok QUALIFY ok",
        "ok USING SAMPLE 1", "ok WINDOW w AS ()", "ok) WINDOW w AS (", "ok RETURNING 1", "ok x", "ok AS x",
        "EXISTS (SELECT 1)", "item_id IN (SELECT item_id FROM other)", "item_id = (SELECT 'x')",
        "EXISTS (FROM 'secret.parquet')", "item_id = ANY (['x'])", "ok OR (WITH x AS (SELECT 1) SELECT true)",
        "EXISTS (FROM read_text('/etc/passwd'))", "read_text('/etc/passwd') = 'x'", "getenv('HOME') = 'x'",
        "sleep_ms(1000) = 1", "nextval('s') = 1", "row_number() OVER () = 1", "sum(chunk_no) = 1",
        "item_id = ?", "item_id = $1", "item_id = $name", "item_id = getvariable('x')", "#1 = 1", "* = 1",
        "COLUMNS(*) = 1", "t.item_id = 'x'", "item_id.x = 'x'", "shape.w = 1", "tags[1] = 'x'", "tags = 'x'",
        "contains(tags, 'x')", "'x' IN tags", "tags = ['x']", "shape = {'w': 1}", "(chunk_no, tiny) = (1, 1)",
        "vector IS NULL", "VECTOR = [1, 0]", "_rowid = 1", "_distance < 1", "now() > seen",
        "seen > current_date",
        "seen > now() - INTERVAL 1 DAY", "chunk_no + 1 = 2", "-chunk_no = 2", "item_id || 'x' = 'x'",
        "upper(item_id) = 'X'", "item_id ~ 'x'", "item_id SIMILAR TO 'x'", "item_id GLOB 'x'",
        "item_id = 'x' COLLATE NOCASE", "CASE WHEN ok THEN ok ELSE ok END", "lower(DISTINCT item_id) = 'x'",
        "main.lower(item_id) = 'x'", "lower(item_id) FILTER (WHERE ok) = 'x'",
        "lower(item_id, item_id) = 'x'",
        "lower(s := item_id) = 'x'", "item_id::INTEGER = 1", "item_id::VARCHAR = 'x'",
        "TRY_CAST('x' AS DATE) = day",
        "chunk_no = x'00'", "item_id IS DISTINCT FROM 'x'", "chunk_no IN (tiny)", "1 IN (chunk_no)",
        "1 IS NULL",
        "item_id LIKE item_id", "item_id LIKE 'x' ESCAPE 'ab'", "item_id LIKE 'x!' ESCAPE '!'",
        "'x' LIKE 'x'",
        "starts_with(item_id, item_id)", "ok < true", "ok = ok AND ok > ok", "1 = 'a'", "\ud800",
    ],
)  # fmt: skip
def test_what_is_no_plain_condition_is_refused(text):
    """Nothing gets through but one condition made of what is allowed: no query, file, function or setting."""
    with pytest.raises(QueryRefused, match="cannot filter by"):
        parse(text, COLUMNS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("chunk_no = '1'", "chunk_no holds whole numbers (int32), not '1'"),
        ("chunk_no = 1.5", "chunk_no holds whole numbers (int32), not 1.5"),
        ("chunk_no < 3000000000", "from -2147483648 to 2147483647; 3000000000 is beyond"),
        ("huge = -1", "from 0 to 18446744073709551615; -1 is beyond"),
        ("item_id = 1", "item_id holds text (string), not 1 (texts go in 'single quotes')"),
        ("item_id IN ('a', TRUE)", "item_id holds text (string), not TRUE"),
        ("select > 'x'", "syntax error"),
        ("\"select\" > 'x'", "select holds numbers (double), not 'x'"),
        ('"select" > 1e999', "beyond all columns"),
        ('"select" > 1e310', "beyond"),
        ("\"it's\" > 1e39", "it's holds float; 1E+39 is beyond"),
        ("price = 1.555", "price holds decimals (10, 2), not 1.555"),
        ("day = '2024-02-30'", "expected a date like '2026-01-31', got '2024-02-30'"),
        ("day = TIMESTAMP '2024-02-29'", "day holds dates (date32[day]), not '2024-02-29 00:00:00'"),
        ("seen > 'yesterday'", "expected a time like '2026-01-31'"),
        ("seen > 5", "seen holds timestamps (timestamp[us, tz=UTC]), not 5"),
        ("\"local time\" = '2024-01-01 00:00:00+01:00'", "have no zone"),
        ("\"local time\" = '2024-01-01 00:00:00.5'", "cannot hold"),
        ("nano < '9999-01-01'", "cannot hold"),
        ("seen = \"local time\"", "no comparing them"),
        ("item_id = chunk_no", "item_id holds string and chunk_no int32: no comparing them"),
        ("ok = 1", "ok holds truth values (bool), not 1"),
        ("item_id", "expected a condition, got item_id"),
        ("item_id = NULL", "ask IS NULL"),
        ("chunk_no NOT IN (1, NULL)", "ask IS NULL"),
        ("tags = 'x'", "tags is list<item: string>, of which a filter can only ask IS NULL"),
        ("chunk_nr = 1", "there is no column chunk_nr; the nearest: chunk_no"),
        ('item_id = "x"', "there is no column x (texts go in 'single quotes')"),
        ("vector = 1", "the vector is what the search goes by"),
        ("upper(item_id) = 'X'", "upper is not allowed, only columns compared with constants"),
        ("item_id = 'x' AND", "syntax error"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_wrong_and_what_there_is(text, says):
    """It holds what was given, what was expected there, and the columns with what they hold."""
    with pytest.raises(QueryRefused) as refused:
        parse(text, COLUMNS)
    message = str(refused.value)
    assert says in message
    assert repr(text) in message
    assert "Columns: row (whole numbers), item_id (text)" in message
    assert "vector (" not in message


def test_a_decimal_keeps_all_its_digits():
    """38 digits reach both engines as they were given."""
    digits = "12345678901234567890123456789012345.678"
    asked = parse(f"price = -{digits}", {"price": pa.decimal128(38, 3)})
    assert f"'-{digits}'" in asked.lance
    assert f"'-{digits}'" in asked.duckdb


def test_names_that_differ_by_case_alone_are_ambiguous():
    """SQL cannot tell them apart, so neither is guessed."""
    with pytest.raises(QueryRefused, match="name may mean any of Name, NAME"):
        parse("name = 1", {"Name": pa.int64(), "NAME": pa.int64()})


def test_a_name_with_a_backtick_is_refused():
    """LanceDB has no way to write it."""
    with pytest.raises(QueryRefused, match="backtick"):
        parse('"back`tick" = 1', {"back`tick": pa.int64()})


def test_deep_and_long_filters_end(engines):
    """What LanceDB parses in exponential time or not at all is flattened or refused; long lists are fine."""
    ok = engines.both("ok")
    assert engines.both("NOT (" * 60 + "ok" + ")" * 60) == ok
    assert engines.both("(" * 60 + "ok" + ")" * 60) == ok
    assert engines.both(" OR ".join(["ok"] * 2000)) == ok
    assert engines.both("(ok OR " * 60 + "ok" + ")" * 60) == ok
    assert engines.both("NOT (ok AND " * MAX_DEPTH + "ok" + ")" * MAX_DEPTH) == engines.both("ok IS NOT NULL")
    assert len(engines.both(f'"row" IN ({", ".join(map(str, range(5000)))})')) == ROWS
    nested = MAX_DEPTH // 2 - 1
    for leaf in ('"it\'s" NOT IN (1, 2)', "lower(item_id) NOT IN ('a')", "(seen > '2024-01-01') IS TRUE"):
        engines.both(f"({leaf} OR ok AND " * nested + leaf + ")" * nested)
    with pytest.raises(QueryRefused, match="nested more than"):
        parse("(ok OR tiny = 1 AND " * MAX_DEPTH + "ok" + ")" * MAX_DEPTH, COLUMNS)
    for text in (
        "NOT " * 100_000 + "ok",
        "(ok AND NOT (ok OR " * 300 + "ok" + "))" * 300,
        "ok" * MAX_CHARACTERS,
    ):
        with pytest.raises(QueryRefused):
            parse(text, COLUMNS)


def test_the_filter_is_a_value():
    """Equal filters are equal, whatever their spelling; the two texts are for the two engines."""
    columns = {"Size": pa.int64(), "text": pa.string()}
    assert parse("size>1", columns) == parse("NOT (SIZE <= 0_1e0)", columns)
    assert parse("size > 1", columns) == Filter("`Size` > 1", '"Size" > 1')

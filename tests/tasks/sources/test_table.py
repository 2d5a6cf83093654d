"""Rows of Parquet, CSV, TSV and JSONL files."""

import csv
import datetime
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoders.decode import MAX_TEXT_BYTES
from storage.errors import UnreadableTable
from tasks.errors import BadRows
from tasks.project import TableSource
from tasks.sources.catalog import open_source
from tasks.sources.protocol import BATCH_BYTES, Pulled, PullReject

FORMATS = ["parquet", "csv", "tsv", "jsonl"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A table of these rows in the format that the path ends in."""
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case suffix:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
    return path


def source(path: Path, *attributes: str, types: dict[str, pa.DataType] | None = None, **columns: str):
    named = {"id": "sku", "text": "body", **columns}
    return open_source(
        TableSource(kind="table", path=path, attributes=attributes, **named), "text", types or {}
    )


def pull(path: Path, *attributes: str, **settings: Any) -> list[Pulled]:
    return list(source(path, *attributes, **settings).pull(None))


def rows(batches: list[Pulled]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.rows.to_pylist()]


def found(batches: list[Pulled]) -> dict[str, bytes | None]:
    return {row["item_id"]: row["content"] for row in rows(batches)}


def rejects(batches: list[Pulled]) -> list[PullReject]:
    return [reject for batch in batches for reject in batch.rejects]


def attribute_types(batches: list[Pulled]) -> dict[str, pa.DataType]:
    return {f.name: f.type for f in batches[0].rows.schema.field("attributes").type}


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_of_a_pull(kind, tmp_path):
    """Each format gives the same rows: id, file, content in UTF-8, position, and typed attributes."""
    path = write(
        tmp_path / f"t.{kind}",
        [
            {"sku": "a/1", "body": "Grüße, 東京", "price": 3, "weight": 1.5, "colour": "red", "unused": 1},
            {
                "sku": 'b "2" 🙂',
                "body": "tab\tin it",
                "price": 4,
                "weight": 2.0,
                "colour": "it's",
                "unused": 2,
            },
        ],
    )
    batches = pull(path, "price", "weight", "colour")
    assert rows(batches) == [
        {
            "item_id": "a/1",
            "uri": str(path),
            "content": "Grüße, 東京".encode(),
            "row": 1,
            "attributes": {"price": 3, "weight": 1.5, "colour": "red"},
        },
        {
            "item_id": 'b "2" 🙂',
            "uri": str(path),
            "content": b"tab\tin it",
            "row": 2,
            "attributes": {"price": 4, "weight": 2.0, "colour": "it's"},
        },
    ]
    expected = {"price": pa.int64(), "weight": pa.float64(), "colour": pa.string()}
    assert attribute_types(batches) == expected
    assert rejects(batches) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_every_batch_has_one_schema(kind, tmp_path):
    """All batches have the same columns and types, the last, empty one included; it alone is complete."""
    path = write(tmp_path / f"t.{kind}", [{"sku": "a", "body": "x", "price": 3}])
    batches = pull(path, "price")
    assert [b.complete for b in batches] == [False] * (len(batches) - 1) + [True]
    assert len({b.rows.schema for b in batches}) == 1
    assert batches[0].rows.schema.types[:4] == [pa.string(), pa.string(), pa.large_binary(), pa.int64()]


@pytest.mark.parametrize("kind", FORMATS)
def test_without_attributes(kind, tmp_path):
    """Without attributes there is no such column."""
    path = write(tmp_path / f"t.{kind}", [{"sku": "a", "body": "x"}])
    assert all(b.rows.column_names == ["item_id", "uri", "content", "row"] for b in pull(path))


@pytest.mark.parametrize("kind", FORMATS)
def test_integer_ids(kind, tmp_path):
    """Integers as ids become their decimal strings, zero and negative ones too."""
    path = write(tmp_path / f"t.{kind}", [{"sku": n, "body": "x"} for n in (0, 7, -1, 2**40)])
    assert list(found(pull(path))) == ["0", "7", "-1", "1099511627776"]


@pytest.mark.parametrize("kind", FORMATS)
def test_one_column_for_two_purposes(kind, tmp_path):
    """The text column may be the id and an attribute at once."""
    path = write(tmp_path / f"t.{kind}", [{"body": "x"}])
    (row,) = rows(pull(path, "body", id="body"))
    assert (row["item_id"], row["content"], row["attributes"]) == ("x", b"x", {"body": "x"})


MISSING = r"no column 'nope'; it has sku, body, price\. Correct `id:`, `text:` or `attributes:`"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("column", ["id", "text"])
def test_missing_column(column, kind, tmp_path):
    """Without its id or text column there is one error before any row: file, columns, settings."""
    path = write(tmp_path / f"t.{kind}", [{"sku": "a", "body": "x", "price": 3}] * 3)
    pulled = source(path, **{column: "nope"}).pull(None)
    with pytest.raises(UnreadableTable, match=MISSING) as raised:
        next(iter(pulled))
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_missing_attribute(kind, tmp_path):
    """An attribute that no row has is an error that lists the columns that there are."""
    path = write(tmp_path / f"t.{kind}", [{"sku": "a", "body": "x", "price": 3}] * 3)
    with pytest.raises(UnreadableTable, match=MISSING):
        pull(path, "price", "nope")


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_without_an_id(kind, tmp_path):
    """Null and empty ids are one error that names the rows; nothing of that batch is handed on."""
    rows = [{"sku": i, "body": "x"} for i in ("a", None, "b", "", "c")]
    path = write(tmp_path / f"t.{kind}", rows)
    with pytest.raises(BadRows, match="no 'sku' in rows 2, 4 "):
        next(iter(source(path).pull(None)))


def test_many_rows_without_an_id(tmp_path):
    """Of many rows without an id ten are named and the others counted."""
    path = write(
        tmp_path / "t.parquet", [{"sku": None, "body": "x"} for _ in range(25)] + [{"sku": "a", "body": "x"}]
    )
    with pytest.raises(BadRows, match="rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 15 more"):
        pull(path)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_null_text_is_handed_on(kind, tmp_path):
    """A row without a text lands as null content, for decoding to reject by itself."""
    path = write(tmp_path / f"t.{kind}", [{"sku": "a", "body": None}, {"sku": "b", "body": "x"}])
    assert found(pull(path)) == {"a": None, "b": b"x"}


def test_empty_text_of_csv_is_handed_on(tmp_path):
    """An empty field of a CSV text column is empty content."""
    path = write(tmp_path / "t.csv", [{"sku": "a", "body": ""}, {"sku": "b", "body": "x"}])
    assert found(pull(path)) == {"a": b"", "b": b"x"}


@pytest.mark.parametrize("kind", FORMATS)
def test_attributes_may_be_missing(kind, tmp_path):
    """A null or empty attribute is null, and its column keeps the type of the others."""
    path = write(
        tmp_path / f"t.{kind}",
        [
            {"sku": "a", "body": "x", "price": None, "colour": None},
            {"sku": "b", "body": "x", "price": 3, "colour": "red"},
        ],
    )
    batches = pull(path, "price", "colour")
    assert [r["attributes"] for r in rows(batches)] == [
        {"price": None, "colour": None},
        {"price": 3, "colour": "red"},
    ]
    assert attribute_types(batches) == {"price": pa.int64(), "colour": pa.string()}


def test_types_found_in_csv(tmp_path):
    """The columns of a CSV file get the narrowest type that all of their values have."""
    path = tmp_path / "t.csv"
    path.write_text(
        "sku,body,whole,real,yes,when,word,mixed\n"
        "a,x,1,1.5,true,2024-01-31 10:00:00,7a,1\n"
        "b,x,-2,2,false,2024-02-01 11:30:00,b,x\n"
    )
    batches = pull(path, "whole", "real", "yes", "when", "word", "mixed")
    assert attribute_types(batches) == {
        "whole": pa.int64(),
        "real": pa.float64(),
        "yes": pa.bool_(),
        "when": pa.timestamp("us"),
        "word": pa.string(),
        "mixed": pa.string(),
    }
    assert rows(batches)[0]["attributes"]["when"] == datetime.datetime(2024, 1, 31, 10)


def test_types_of_parquet_are_kept(tmp_path):
    """Attributes of a Parquet file have the types of its columns; dictionaries are their values."""
    table = pa.table(
        {
            "sku": pa.array(["a"]).dictionary_encode(),
            "body": pa.array(["x"], pa.large_string()),
            "small": pa.array([1], pa.int16()),
            "day": pa.array([datetime.date(2024, 1, 31)]),
            "tags": pa.array([["a", "b"]]),
            "colour": pa.array(["red"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    batches = pull(tmp_path / "t.parquet", "small", "day", "tags", "colour")
    assert attribute_types(batches) == {
        "small": pa.int16(),
        "day": pa.date32(),
        "tags": table.schema.field("tags").type,
        "colour": pa.string(),
    }
    assert rows(batches)[0]["attributes"]["colour"] == "red"


@pytest.mark.parametrize("kind", FORMATS)
def test_attribute_of_the_wrong_type(kind, tmp_path):
    """A value that is not of the stored type rejects its row, saying which; the others land typed."""
    values = ["7", "dear", "9"] if kind != "jsonl" else [7, "dear", 9]
    path = write(
        tmp_path / f"t.{kind}",
        [{"sku": i, "body": "x", "price": p} for i, p in zip("abc", values, strict=True)],
    )
    batches = pull(path, "price", types={"price": pa.int64()})
    assert [(r["item_id"], r["attributes"]["price"]) for r in rows(batches)] == [("a", 7), ("c", 9)]
    (reject,) = rejects(batches)
    assert (reject.item_id, reject.error_type) == ("b", "BadAttribute")
    assert reject.reason.startswith("price: ")
    assert "dear" in reject.reason
    assert "int64" in reject.reason


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_types_stay_those_of_the_first_batch(kind, tmp_path):
    """A value far down the file that is not of the type found first rejects its row and no other."""
    many = [{"sku": f"{n:06}", "body": "x" * 60, "price": n} for n in range(80_000)]
    many[70_000]["price"] = "dear"
    batches = pull(write(tmp_path / f"t.{kind}", many), "price")
    assert len(batches) > 2
    assert sum(b.rows.num_rows for b in batches) == 79_999
    assert [(r.item_id, r.error_type) for r in rejects(batches)] == [("070000", "BadAttribute")]
    assert len({b.rows.schema for b in batches}) == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["red", 5, None], ["red", "5", None]),
        (["red", {"shade": 1}], ["red", '{"shade": 1}']),
        (["it's", True], ["it's", "true"]),
    ],
    ids=["number", "object", "boolean"],
)
@pytest.mark.parametrize("types", [{}, {"colour": pa.string()}], ids=["first ingest", "later ingest"])
def test_strings_beside_other_json_values(types, values, expected, tmp_path):
    """A JSON value of another kind in a column of strings does not change the strings beside it."""
    path = write(
        tmp_path / "t.jsonl", [{"sku": str(n), "body": "x", "colour": v} for n, v in enumerate(values)]
    )
    batches = pull(path, "colour", types=types)
    assert [r["attributes"]["colour"] for r in rows(batches)] == expected


def test_surrogate_in_an_attribute(tmp_path):
    """Half a surrogate pair in an attribute rejects its row at most: the strings beside it stay."""
    path = write(
        tmp_path / "t.jsonl",
        [{"sku": "a", "body": "x", "colour": "red"}, {"sku": "b", "body": "x", "colour": "\ud800"}],
    )
    landed = {r["item_id"]: r["attributes"]["colour"] for r in rows(pull(path, "colour"))}
    assert landed["a"] == "red"


@pytest.mark.parametrize("kind", FORMATS)
def test_json_numbers_of_any_size(kind, tmp_path):
    """An integer beyond 64 bits rejects its row at most; the rows beside it land."""
    if kind == "parquet":
        path = tmp_path / "t.parquet"
        decimals = pa.array([1, 2**70, 3], pa.decimal128(38))
        pq.write_table(pa.table({"sku": ["a", "b", "c"], "body": ["x"] * 3, "price": decimals}), path)
    else:
        prices = (1, 2**70, 3)
        path = write(
            tmp_path / f"t.{kind}",
            [{"sku": i, "body": "x", "price": p} for i, p in zip("abc", prices, strict=True)],
        )
    batches = pull(path, "price", types={"price": pa.int64()})
    assert [(r["item_id"], r["attributes"]["price"]) for r in rows(batches)] == [("a", 1), ("c", 3)]
    assert [r.item_id for r in rejects(batches)] == ["b"]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_broken_csv_rows(kind, tmp_path):
    """A row with too many or too few values is an unidentified reject that names it; the others land."""
    comma = "\t" if kind == "tsv" else ","
    lines = ["sku,body,price", "a,x,1", "b,x,y,2", "c,x,3", "d", "e,x,5"]
    path = tmp_path / f"t.{kind}"
    path.write_text("\n".join(lines).replace(",", comma) + "\n")
    batches = pull(path, "price")
    assert [(r["item_id"], r["row"], r["attributes"]["price"]) for r in rows(batches)] == [
        ("a", 1, 1),
        ("c", 3, 3),
        ("e", 5, 5),
    ]
    assert [(r.item_id, r.uri, r.error_type) for r in rejects(batches)] == [
        (None, f"{path}#row=2", "BrokenRow"),
        (None, f"{path}#row=4", "BrokenRow"),
    ]
    assert rejects(batches)[0].reason == "4 values where the header has 3"


def test_broken_csv_rows_over_many_blocks(tmp_path):
    """In a file of many blocks every row keeps its number, and every broken row is told once."""
    chosen = random.Random(5)
    broken = sorted(chosen.sample(range(1, 200_001), 300))
    lines = [f"{n},some text of row {n},{n}" for n in range(1, 200_001)]
    for n in broken:
        lines[n - 1] += ",surplus"
    path = tmp_path / "t.csv"
    path.write_text("sku,body,price\n" + "\n".join(lines) + "\n")
    batches = pull(path, "price")
    assert len(batches) > 2
    assert all(
        int(i) == n
        for b in batches
        for i, n in zip(b.rows["item_id"].to_pylist(), b.rows["row"].to_pylist(), strict=True)
    )
    assert sum(b.rows.num_rows for b in batches) == 200_000 - 300
    assert sorted(int(r.uri.rpartition("=")[2]) for r in rejects(batches)) == broken


def test_csv_of_broken_rows_only(tmp_path):
    """A file without one good row gives its rejects and no row."""
    path = tmp_path / "t.csv"
    path.write_text("sku,body,price\n1,2\n3\n")
    batches = pull(path, "price")
    assert rows(batches) == []
    assert len(rejects(batches)) == 2
    assert batches[-1].complete


def test_quotes_in_csv(tmp_path):
    """Quoted commas, quotes and line breaks belong to the value; rows after them keep their numbers."""
    path = tmp_path / "t.csv"
    path.write_bytes(b'sku,body\r\na,"one, ""two""\nthree\r\n\r\nfour"\r\nb,plain\r\n"c ""x""",""\r\n')
    batches = pull(path)
    assert found(batches) == {"a": b'one, "two"\nthree\r\n\r\nfour', "b": b"plain", 'c "x"': b""}
    assert [r["row"] for r in rows(batches)] == [1, 2, 3]


def test_csv_with_byte_order_mark(tmp_path):
    """A byte order mark, as spreadsheets write it, is no part of the first column's name."""
    path = tmp_path / "t.csv"
    path.write_text("sku,body\na,x\n", encoding="utf-8-sig")
    assert found(pull(path)) == {"a": b"x"}


def test_csv_in_another_encoding(tmp_path):
    """A value that is not UTF-8 arrives as its bytes, for decoding to reject; an id like that is a reject."""
    path = tmp_path / "t.csv"
    path.write_bytes("sku,body\na,Grüße\nü,x\nc,y\n".encode("latin-1"))
    batches = pull(path)
    assert found(batches) == {"a": "Grüße".encode("latin-1"), "c": b"y"}
    (reject,) = rejects(batches)
    assert (reject.item_id, reject.uri) == (None, f"{path}#row=2")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_empty_tables(kind, tmp_path):
    """A table without rows is a complete pull of none."""
    path = tmp_path / f"t.{kind}"
    path.write_text("sku,body\n" if kind == "csv" else "")
    batches = pull(path)
    assert rows(batches) == []
    assert batches[-1].complete


@pytest.mark.parametrize(
    "line",
    [
        "{broken",
        '["a", "x"]',
        '"a"',
        "17",
        '{"sku": "b", "body": "x"',
        '{"sku": "b", "body": "x"} trailing',
        "[" * 100_000,
        '{"sku": "b", "body": ' + "[" * 100_000,
    ],
    ids=["torn", "list", "string", "number", "unclosed", "trailing", "deep list", "deep value"],
)
def test_broken_json_lines(line, tmp_path):
    """A line that is not one JSON object is an unidentified reject that names it; the others land."""
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"sku": "a", "body": "x"}}\n\n{line}\n{{"sku": "c", "body": "x"}}')
    batches = pull(path)
    assert [(r["item_id"], r["row"]) for r in rows(batches)] == [("a", 1), ("c", 4)]
    (reject,) = rejects(batches)
    assert (reject.item_id, reject.uri, reject.error_type) == (None, f"{path}#row=3", "BrokenRow")


def test_json_line_in_another_encoding(tmp_path):
    """A line that is not UTF-8 is a reject; the others land."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"sku": "a", "body": "\xff"}\n{"sku": "b", "body": "x"}\n')
    batches = pull(path)
    assert found(batches) == {"b": b"x"}
    assert [r.item_id for r in rejects(batches)] == [None]


def test_lone_surrogates_survive_as_bytes(tmp_path):
    """Half a surrogate pair in a text arrives as bytes, for decoding to reject; in an id it is a reject."""
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"sku": "a", "body": "x\\ud800"}\n{"sku": "\\udfff", "body": "x"}\n{"sku": "c", "body": "x"}\n'
    )
    batches = pull(path)
    assert found(batches) == {"a": b"x\xed\xa0\x80", "c": b"x"}
    assert [(r.item_id, r.uri) for r in rejects(batches)] == [(None, f"{path}#row=2")]


def test_json_texts_that_are_no_strings(tmp_path):
    """A number or list as text is its JSON; line separators inside a string split no line."""
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"sku": "a", "body": 5}\n{"sku": "b", "body": ["x", 1]}\n{"sku": "c", "body": "\u2028\u0085"}\n'
    )
    assert found(pull(path)) == {"a": b"5", "b": b'["x", 1]', "c": "\u2028\u0085".encode()}


def test_json_keys_that_come_late(tmp_path):
    """An attribute that only later lines have is a column all the same."""
    path = write(tmp_path / "t.jsonl", [{"sku": "a", "body": "x"}, {"sku": "b", "body": "x", "price": 3}])
    assert [r["attributes"]["price"] for r in rows(pull(path, "price"))] == [None, 3]


@pytest.mark.parametrize("kind", FORMATS)
def test_more_rows_than_a_batch(kind, tmp_path):
    """A long table comes in several batches, every row once and in order, none of them large."""
    many = [{"sku": f"{n:06}", "body": f"text {n} " + "x" * 80, "price": n} for n in range(1, 60_001)]
    batches = pull(write(tmp_path / f"t.{kind}", many), "price")
    assert len(batches) > 2
    assert [b.complete for b in batches] == [False] * (len(batches) - 1) + [True]
    assert max(b.rows.nbytes for b in batches) <= BATCH_BYTES
    assert [n for b in batches for n in b.rows["row"].to_pylist()] == list(range(1, 60_001))
    assert [int(i) for b in batches for i in b.rows["item_id"].to_pylist()] == list(range(1, 60_001))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_long_texts_make_short_batches(kind, tmp_path):
    """Batches are bounded by bytes, too: few rows where texts are long."""
    size = BATCH_BYTES // 4
    path = write(tmp_path / f"t.{kind}", [{"sku": str(n), "body": "x" * size} for n in range(10)])
    batches = pull(path)
    assert sum(b.rows.num_rows for b in batches) == 10
    assert max(b.rows.nbytes for b in batches) <= BATCH_BYTES + size


@pytest.mark.parametrize("kind", FORMATS)
def test_one_enormous_text(kind, tmp_path):
    """A text far over the limit does not keep the rows around it from landing."""
    path = tmp_path / f"t.{kind}"
    texts = ["x", "y" * (3 * MAX_TEXT_BYTES), "z"]
    write(path, [{"sku": i, "body": t} for i, t in zip("abc", texts, strict=True)])
    landed = found(pull(path))
    assert (landed["a"], landed["c"]) == (b"x", b"z")


def test_missing_file(tmp_path):
    """A table that does not exist is an error that names it and the setting."""
    with pytest.raises(
        UnreadableTable, match=r"nothere\.csv does not exist; correct `path:` in evervec\.yaml"
    ):
        pull(tmp_path / "nothere.csv")


def test_unknown_format(tmp_path):
    """A file of another format is an error that lists those that can be read."""
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(UnreadableTable, match=r"\.parquet, \.csv, \.tsv, \.jsonl, \.ndjson"):
        pull(tmp_path / "t.xlsx")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet at all" * 10], ids=["empty", "torn", "other"])
def test_damaged_parquet(content, tmp_path):
    """A Parquet file that is none is an error naming the file."""
    path = tmp_path / "t.parquet"
    path.write_bytes(content)
    with pytest.raises(UnreadableTable, match=r"t\.parquet is not a readable Parquet file"):
        pull(path)


def test_ids_of_an_unusable_type(tmp_path):
    """An id column of floats is an error naming column and type: it would not be stable."""
    path = write(tmp_path / "t.parquet", [{"sku": 1.5, "body": "x"}])
    with pytest.raises(UnreadableTable, match="column 'sku' is double, expected text"):
        pull(path)


def test_parquet_text_that_is_no_utf8(tmp_path):
    """Binary columns of Parquet are taken as they are: bad texts for decoding, bad ids as rejects."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"sku": [b"a", b"\xff", b"c"], "body": [b"\xff", b"x", b"y"]}), path)
    batches = pull(path)
    assert found(batches) == {"a": b"\xff", "c": b"y"}
    assert [(r.item_id, r.uri) for r in rejects(batches)] == [(None, f"{path}#row=2")]


def test_source_names_itself(tmp_path):
    """The source says where it is, and that its texts are UTF-8."""
    made = source(tmp_path / "t.csv")
    assert made.where == str(tmp_path / "t.csv")
    assert made.encoding == "utf-8"

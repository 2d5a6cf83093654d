"""The SQL views against a plain Python model of the data, over several real ingests."""

import datetime as dt
import hashlib

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoders.chunking import Chunker
from encoders.fake import FakeEncoder, FakeTokenizer, describe
from encoders.spec import ChunkSpec, EncoderSpec, chunking_of
from storage import sql
from storage.errors import Damaged, QueryRefused
from tasks import reader
from tasks.errors import RunFailed

DIM = 16
SPEC = EncoderSpec(model=f"fake:{DIM}")
FACTS = describe(SPEC)
ENCODER = FakeEncoder(FACTS)
CHUNKER = Chunker(chunking_of(ChunkSpec(max_tokens=8, overlap=2), FACTS), FakeTokenizer())

FAMILY = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"
ACCENTED = "e\N{COMBINING ACUTE ACCENT}te\N{COMBINING ACUTE ACCENT}"
EMOJI_TEXT = " ".join(f"{FAMILY} {ACCENTED} {k} \N{GRINNING FACE}!" for k in range(9))
DAY = dt.datetime(2026, 1, 2, 3, 4, 5)

YAML = """
    lake: ./lake
    encoders: {{enc: {{model: "fake:16"}}}}
    collections:
      docs:
        source: {{kind: table, path: t.parquet, id: id, text: body, attributes: {attributes}}}
        encoder: enc
        chunk: {{max_tokens: 8, overlap: 2}}
        max_deleted: 1.0
"""
ALL = ["price", "n", "flag", "day", "größe"]


def row(body, price=None, n=None, flag=None, day=None, label=None):
    return {"body": body, "price": price, "n": n, "flag": flag, "day": day, "größe": label}


FIRST = {
    "plain": row("one two three", 1.5, 2**60, True, DAY, "S"),
    "it's/../ä \N{GRINNING FACE}": row(EMOJI_TEXT, -0.25, -1, False, None, "\N{ROCKET}"),
    "long": row("word, " * 50, None, 7, None, DAY, None),
    "lines": row("a\r\nb\nc\td\u2028e\x7f", 0.0, 0, True, DAY, ""),
    "blank": row(" \n\t", 9.0, 9, True, DAY, "never"),
    "gone": row("soon gone", 3.0, 3, True, DAY, "M"),
    "again": row("comes back later", 4.0, 4, True, DAY, "L"),
    "turns bad": row("good at first", 5.0, 5, True, DAY, "L"),
}
SECOND = {
    "plain": row("one two three", 2.5, 2, None, DAY, "XL"),
    "it's/../ä \N{GRINNING FACE}": row(EMOJI_TEXT + " and more", 1.0, 1, True, DAY, "x"),
    "long": row("short now", 1.0, 7, None, DAY, None),
    "lines": FIRST["lines"],
    "blank": row("not blank any more", 9.5, 9, True, DAY, "kept"),
    "turns bad": row("  ", 5.0, 5, True, DAY, "L"),
    "new": row("a new one", 6.0, 6, False, DAY, "new"),
    "bad too": row("", None, None, None, None, None),
}
THIRD = {
    **{k: v for k, v in SECOND.items() if k not in ("new", "bad too")},
    "again": FIRST["again"],
    "turns bad": row("good again", 5.0, 5, True, DAY, "L"),
}


def stored(body):
    """The text that is kept of a body: lines end in line feeds; size and hash are of the body itself."""
    return body.replace("\r\n", "\n")


class Model:
    """What the views should show: a dict of items, a dict of rejects, told pull by pull."""

    def __init__(self):
        self.items, self.rejects = {}, {}

    def pull(self, table):
        for item_id in {*self.items, *self.rejects} - set(table):
            self.items.pop(item_id, None)
            self.rejects.pop(item_id, None)
        for item_id, values in table.items():
            if values["body"].strip():
                self.items[item_id] = {**values, "stale": False}
                self.rejects.pop(item_id, None)
            else:
                self.rejects[item_id] = values
                if item_id in self.items:
                    self.items[item_id]["stale"] = True

    def chunks(self):
        """Rows of the view C but for those columns that only a run can know."""
        for item_id, values in self.items.items():
            text = stored(values["body"])
            attributes = {name: values[name] for name in ALL}
            for number, (start, end) in enumerate(CHUNKER.spans(text)):
                yield {
                    "item_id": item_id,
                    "chunk_no": number,
                    "chunk_start": start,
                    "chunk_end": end,
                    "text": text[start:end],
                    **attributes,
                    "stale": values["stale"],
                }


def save(project, rows, columns=None):
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("body", pa.string()),
            ("price", pa.float64()),
            ("n", pa.int64()),
            ("flag", pa.bool_()),
            ("day", pa.timestamp("us")),
            ("größe", pa.string()),
        ]
    )
    table = pa.Table.from_pylist([{"id": i, **values} for i, values in rows.items()], schema)
    pq.write_table(table, project.root / "t.parquet")


def ask(project, query):
    with reader.open(project) as lake:
        return lake.sql(query).to_pylist()


@pytest.fixture
def project(make_project):
    return make_project(YAML.format(attributes=ALL))


def by_id(rows):
    return sorted(rows, key=lambda r: (r["item_id"] or "", r.get("chunk_no", 0)))


def assert_views_are(project, model):
    expected = by_id(model.chunks())
    with reader.open(project) as lake:
        own = "item_id, chunk_no, chunk_start, chunk_end, text"
        names = ", ".join(f'"{a}"' for a in ALL)
        stale = "stale_since IS NOT NULL AS stale"
        assert by_id(lake.sql(f"SELECT {own}, {names}, {stale} FROM docs").to_pylist()) == expected

        vectors = by_id(lake.sql("SELECT item_id, chunk_no, vector, space_id, origin FROM docs").to_pylist())
        assert {(v["space_id"], v["origin"]) for v in vectors} == {(FACTS.space_id, "encoded")}
        encoded = ENCODER.encode([c["text"] for c in expected])
        assert np.array_equal(np.array([v["vector"] for v in vectors], np.float32), encoded)
        everywhere = lake.sql(
            "SELECT item_id, chunk_no, vector, space_id, origin FROM docs_vectors"
        ).to_pylist()
        assert by_id(everywhere) == vectors

        items = lake.sql(
            f"SELECT item_id, text, bytes, content_hash, modality, uri, {names}, {stale} FROM docs_items"
        ).to_pylist()
        assert by_id(items) == by_id(
            {
                "item_id": item_id,
                "text": stored(values["body"]),
                "bytes": len(values["body"].encode()),
                "content_hash": hashlib.sha256(values["body"].encode()).hexdigest(),
                "modality": "text",
                "uri": str(project.root / "t.parquet"),
                **{name: values[name] for name in (*ALL, "stale")},
            }
            for item_id, values in model.items.items()
        )

        rejects = lake.sql("SELECT item_id, stage, content_hash FROM docs_rejects").to_pylist()
        assert {r["item_id"] for r in rejects} == set(model.rejects)
        assert len(rejects) == len(model.rejects)
        assert all(
            r["content_hash"] == hashlib.sha256(model.rejects[r["item_id"]]["body"].encode()).hexdigest()
            for r in rejects
        )


def test_the_views_equal_the_model_after_every_run(project, run_ingest):
    """Chunks, vectors, items and rejects are what plain Python says, through edits, deletions, rejects."""
    model = Model()
    for table in (FIRST, SECOND, THIRD, FIRST):
        save(project, table)
        run_ingest(project)
        model.pull(table)
        # an item whose content is bad keeps the row that was good, but not its newer attributes
        assert_views_are(project, model)


def test_versions_and_runs_are_those_of_the_reports(project, run_ingest):
    """C_versions has a line a commit, and the tables of `evervec` are its sums and its head."""
    reports = []
    for table in (FIRST, SECOND, THIRD):
        save(project, table)
        reports.append(run_ingest(project))
    counts = ("added", "updated", "deleted", "encoded")
    with reader.open(project) as lake:
        versions = lake.sql("SELECT * FROM docs_versions ORDER BY version").to_pylist()
        runs = lake.sql("SELECT * FROM evervec.runs ORDER BY version").to_pylist()
        (collection,) = lake.sql("SELECT * FROM evervec.collections").to_pylist()
        (space,) = lake.sql("SELECT * FROM evervec.spaces").to_pylist()
        (release,) = lake.sql("SELECT * FROM evervec.releases").to_pylist()
        shown = lake.sql("SELECT count(*) AS chunks, count(DISTINCT item_id) AS items FROM docs").to_pylist()
        (rejects,) = lake.sql("SELECT count(*) AS n FROM docs_rejects").to_pylist()
    assert [v["version"] for v in versions] == list(range(1, reports[-1].version + 1))
    assert [r["version"] for r in runs] == [p.version for p in reports]
    assert [r["run_id"] for r in runs] == [p.run_id for p in reports]
    for run, report in zip(runs, reports, strict=True):
        windows = [v for v in versions if v["run_id"] == report.run_id]
        assert run["windows"] == len(windows) > 0
        for count in counts:
            assert run[count] == sum(v[count] for v in windows) == getattr(report, count), count
    assert {r["verb"] for r in (*versions, *runs)} == {"ingest"}
    assert all(r["started_at"] <= r["finished_at"] for r in runs)
    assert shown == [{"chunks": collection["chunks"], "items": collection["items"]}]
    assert (collection["collection"], collection["rejects"]) == ("docs", rejects["n"])
    assert collection["version"] == reports[-1].version
    assert (versions[-1]["items"], versions[-1]["chunks"]) == (collection["items"], collection["chunks"])
    assert space == {
        "collection": "docs",
        "space_id": FACTS.space_id,
        "encoded": collection["chunks"],
        "mapped": 0,
        "imported": 0,
    }
    assert release == {
        "collection": "docs",
        "release": 1,
        "space_id": FACTS.space_id,
        "dim": DIM,
        "fingerprint": FACTS.fingerprint,
        "strategy": "native",
        "model": f"fake:{DIM}",
        "live": True,
        "retired": False,
        "since_version": 1,
        "cascade": 0,
        "forced": False,
        **dict.fromkeys(["through", "upgraded_from", "report", "basis_id"]),
    }


def test_columns_are_typed(project, run_ingest):
    """Vectors are FLOAT[d], attributes stand flat with the types that they have in the source."""
    save(project, FIRST)
    run_ingest(project)
    attributes = {
        "price": "DOUBLE",
        "n": "BIGINT",
        "flag": "BOOLEAN",
        "day": "TIMESTAMP",
        "größe": "VARCHAR",
    }
    with reader.open(project) as lake:
        types = {
            view: {r["column_name"]: r["column_type"] for r in lake.sql(f"DESCRIBE {view}").to_pylist()}
            for view in ("docs", "docs_items", "docs_vectors")
        }
    assert types["docs"]["vector"] == f"FLOAT[{DIM}]"
    assert types["docs_vectors"]["vector"] == "FLOAT[]"
    for view in ("docs", "docs_items"):
        assert {name: types[view][name] for name in ALL} == attributes
        assert "attributes" not in types[view]


def test_similarity_needs_no_cast(project, run_ingest):
    """array_cosine_similarity takes the column and embed() as they are, and the equal text is first."""
    save(project, FIRST)
    run_ingest(project)
    found = ask(
        project,
        "SELECT item_id, array_cosine_similarity(vector, embed('docs', 'one two three')) AS score "
        "FROM docs ORDER BY score DESC LIMIT 1",
    )
    assert found[0]["item_id"] == "plain"
    assert found[0]["score"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("query", ["soon gone", "it's \N{GRINNING FACE}", "", "x" * 5000])
def test_functions_in_sql_equal_the_reader(project, run_ingest, query):
    """embed() and search() give in SQL what the Python API gives, for any text."""
    save(project, FIRST)
    run_ingest(project)
    text = query.replace("'", "''")
    with reader.open(project) as lake:
        (embedded,) = lake.sql(f"SELECT embed('docs', '{text}') AS v").to_pylist()
        assert np.array_equal(np.array(embedded["v"], np.float32), lake.embed("docs", query))
        for k in (1, 4, 99):
            hits = lake.search("docs", query, k).hits
            assert lake.sql(f"SELECT * FROM search('docs', '{text}', {k})").to_pylist() == [
                {"item_id": h.item_id, "chunk_no": h.chunk_no, "score": h.score} for h in hits
            ]
        assert len(lake.sql(f"SELECT * FROM search('docs', '{text}')")) == min(10, len(hits))


def test_search_can_be_joined_with_the_views(project, run_ingest):
    """A search is a table like any other: its hits meet their attributes in one query."""
    save(project, FIRST)
    run_ingest(project)
    found = ask(
        project,
        "SELECT d.text, d.price FROM search('docs', 'one two three', 3) s "
        "JOIN docs d USING (item_id, chunk_no) ORDER BY s.score DESC LIMIT 1",
    )
    assert found == [{"text": "one two three", "price": 1.5}]


def test_attributes_that_come_later_are_null_until_then(make_project, run_ingest):
    """A new attribute is null for rows not yet read again, whatever mix of files is live, then filled."""
    project = make_project(YAML.format(attributes=[]))
    save(project, FIRST)
    run_ingest(project)
    assert "price" not in ask(project, "SELECT * FROM docs LIMIT 1")[0]
    good = {i: v for i, v in FIRST.items() if v["body"].strip()}
    filled = {}
    for attributes, limit in (
        (["price"], 4),
        (["price", "n"], 1),
        (["price", "n"], 2),
        (["n", "größe"], None),
    ):
        project = make_project(YAML.format(attributes=attributes))
        good = {f"new {len(good)}": row("another", float(len(good)), len(good), label="L"), **good}
        save(project, good)
        run_ingest(project, limit=limit)
        filled |= dict.fromkeys(list(good)[:limit], attributes)
        rows = ask(project, "SELECT DISTINCT ON (item_id) * FROM docs")
        assert len(rows) == len(good)
        for r in rows:
            known = filled.get(r["item_id"], [])
            expected = {a: good[r["item_id"]][a] if a in known else None for a in attributes}
            assert {a: r[a] for a in attributes} == expected
            assert not {*ALL} - {*attributes} & r.keys()


def test_attributes_taken_away_disappear(project, make_project, run_ingest):
    """An attribute that is no longer kept is no column, and the others stay as they are."""
    save(project, FIRST)
    run_ingest(project)
    project = make_project(YAML.format(attributes=["n"]))
    run_ingest(project)
    rows = {r["item_id"]: r for r in ask(project, "SELECT * FROM docs_items")}
    assert rows["plain"]["n"] == 2**60
    assert not {"price", "flag", "day"} & rows["plain"].keys()


def test_attributes_may_be_named_as_their_owner_likes(make_project, run_ingest):
    """Column names with quotes, spaces, capitals or SQL words are kept, shown and searched beside hits."""
    names = ['quo"te', "it's", "with space", "Mixed", "select", "i", "v", "_path", "file_row_number", "ßß"]
    project = make_project(YAML.format(attributes=names))
    for rows in (3, 2):
        columns = {name: [f"{name} {k}" for k in range(rows)] for name in names}
        ids = [f"i{k}" for k in range(rows)]
        pq.write_table(pa.table({"id": ids, "body": ids, **columns}), project.root / "t.parquet")
        run_ingest(project)
        found = {r["item_id"]: r for r in ask(project, "SELECT * FROM docs")}
        assert {i: [found[i][n] for n in names] for i in found} == {
            f"i{k}": [f"{n} {k}" for n in names] for k in range(rows)
        }


def test_a_collection_whose_items_are_all_gone_has_empty_views(project, run_ingest):
    """Deleting everything leaves views with their columns and no rows."""
    save(project, FIRST)
    run_ingest(project)
    save(project, {})
    run_ingest(project, yes=True)
    for view in ("docs", "docs_items", "docs_vectors", "docs_rejects"):
        assert ask(project, f"SELECT count(*) AS n FROM {view}") == [{"n": 0}]
    assert ask(project, "SELECT price, vector FROM docs") == []
    assert ask(project, "SELECT * FROM search('docs', 'anything')") == []


def test_a_collection_of_rejects_alone_has_empty_views(project, run_ingest):
    """When nothing could be used, the views are there, and the reasons."""
    save(project, {"a": row(" "), "b": row("")})
    with pytest.raises(RunFailed):
        run_ingest(project)
    assert ask(project, "SELECT price, n, vector FROM docs") == []
    assert ask(project, "SELECT n FROM docs_items") == []
    assert {r["item_id"] for r in ask(project, "SELECT item_id FROM docs_rejects")} == {"a", "b"}


def test_a_collection_never_ingested_is_named_with_the_next_command(project):
    """Asking for views that are not there yet says how to fill them, not that a table is unknown."""
    for query in (
        "SELECT * FROM docs",
        "SELECT * FROM docs_items",
        "SELECT embed('docs', 'x')",
        "SELECT * FROM search('docs', 'x', 3)",
    ):
        with pytest.raises(Exception, match="evervec ingest docs") as caught:
            ask(project, query)
        assert caught.value.exit_code == 2


def test_the_tables_of_an_empty_lake_have_their_columns(project):
    """Before the first ingest the tables of `evervec` are empty, and can be asked as ever."""
    assert ask(project, "SELECT collection, version, items FROM evervec.collections") == []
    assert ask(project, "SELECT run_id, windows, encoded FROM evervec.runs") == []
    assert ask(project, "SELECT space_id, mapped FROM evervec.spaces") == []
    assert ask(project, "SELECT release, live FROM evervec.releases") == []
    assert ask(project, "SELECT basis_id, metrics FROM evervec.bases") == []


def test_a_reader_sees_each_new_version(project, run_ingest):
    """A reader that is kept open answers from the newest version, whole."""
    save(project, {"a": row("one")})
    run_ingest(project)
    with reader.open(project) as lake:
        assert lake.search("docs", "one", 1).hits[0].score == pytest.approx(1, abs=1e-6)
        frozen = lake.connect()
        save(project, {"a": row("two"), "b": row("three")})
        run_ingest(project)
        assert lake.sql("SELECT text FROM docs ORDER BY text").to_pylist() == [
            {"text": "three"},
            {"text": "two"},
        ]
        assert lake.search("docs", "two", 1).hits[0].score == pytest.approx(1, abs=1e-6)
        assert frozen.execute("SELECT text FROM docs").fetchall() == [("one",)]


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1 AS a) TO '{file}' (FORMAT parquet)",
        "WITH x AS (COPY (SELECT 1 AS a) TO '{file}' (FORMAT parquet)) SELECT 1",
        "EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO '{file}' (FORMAT parquet)",
    ],
)
def test_the_connection_for_programs_overwrites_no_file(project, run_ingest, query):
    """What connect() gives is read-only: a slip in a notebook must not cost rows of the lake."""
    save(project, {"a": row("one")})
    run_ingest(project)
    (file,) = (project.lake / "docs" / "data" / "items").iterdir()
    before = file.read_bytes()
    with reader.open(project) as lake:
        connection = lake.connect()
        with pytest.raises((QueryRefused, duckdb.Error)):
            connection.execute(query.replace("{file}", str(file)))
    assert file.read_bytes() == before


@pytest.fixture
def two(make_project, run_ingest):
    """A project with collections of 16 and of 4 dims."""
    project = make_project(
        """
        lake: ./lake
        encoders: {wide: {model: "fake:16"}, narrow: {model: "fake:4"}}
        collections:
          docs: {source: {kind: table, path: t.parquet, id: id, text: body}, encoder: wide}
          notes:
            source: {kind: table, path: t.parquet, id: id, text: body, attributes: [n]}
            encoder: narrow
        """
    )
    save(project, {"a": row("one", n=1), "b": row("two", n=2)})
    run_ingest(project, "docs")
    run_ingest(project, "notes")
    return project


def test_collections_of_different_dims(two):
    """Each collection has vectors of its own length, and functions that answer in it."""
    for name, dim in (("docs", 16), ("notes", 4)):
        found = ask(
            two,
            f"SELECT item_id, typeof(vector) AS kind, "
            f"array_cosine_similarity(vector, embed('{name}', 'two')) AS score "
            f"FROM {name} ORDER BY score DESC LIMIT 1",
        )
        assert (found[0]["item_id"], found[0]["kind"]) == ("b", f"FLOAT[{dim}]")
        assert found[0]["score"] == pytest.approx(1, abs=1e-6)


def test_one_query_over_collections_of_different_dims(two):
    """Both can stand in one query; there embed() has no one type and is cast."""
    found = ask(
        two,
        "SELECT d.item_id, n.n, array_cosine_similarity(d.vector, embed('docs', 'one')::FLOAT[16]) AS wide, "
        "array_cosine_similarity(n.vector, embed('notes', 'one')::FLOAT[4]) AS narrow "
        "FROM docs d JOIN notes n USING (item_id) ORDER BY wide DESC LIMIT 1",
    )
    assert (found[0]["item_id"], found[0]["n"]) == ("a", 1)
    assert [found[0]["wide"], found[0]["narrow"]] == pytest.approx([1, 1], abs=1e-6)
    assert [r["collection"] for r in ask(two, "SELECT collection FROM evervec.collections ORDER BY 1")] == [
        "docs",
        "notes",
    ]


def test_a_query_binds_only_the_collections_it_names(two, run_ingest, caplog):
    """Damage in one collection does not concern a query over another."""
    save(two, {"a": row("one", n=1)})
    run_ingest(two, "notes", yes=True)
    for folder in ("_commits", "_copies"):
        (two.lake / "notes" / folder / f"{1:020d}.json").write_text("torn")
    assert ask(two, "SELECT count(*) AS n FROM docs") == [{"n": 2}]
    assert caplog.records == []
    with pytest.raises(Damaged, match="_commits"):
        ask(two, "SELECT count(*) FROM NOTES_items")


def test_a_record_torn_in_one_place_does_not_change_an_answer(two, caplog):
    """The second copy of a record stands in for it, and one line of the log says so."""
    asked = "SELECT item_id, n FROM notes ORDER BY item_id"
    whole = ask(two, asked)
    (two.lake / "notes" / "_commits" / f"{1:020d}.json").write_text("torn")
    assert ask(two, asked) == whole
    (said,) = (r.getMessage() for r in caplog.records)
    assert "second copy" in said


def test_an_error_in_a_function_is_one_sentence(project, run_ingest):
    """What our functions refuse comes as their message, without a Python trace."""
    save(project, FIRST)
    run_ingest(project)
    with pytest.raises(QueryRefused, match="no collection 'nope'") as caught:
        ask(project, "SELECT * FROM search('nope', 'x', 3)")
    assert "Traceback" not in str(caught.value)


def test_a_lake_may_lie_anywhere(make_project, run_ingest, tmp_path):
    """Quotes, spaces and other letters in the path of a lake do not matter."""
    project = make_project(YAML.format(attributes=ALL), folder=tmp_path / "it's a läke [1] *?")
    for table in (FIRST, SECOND):
        save(project, table)
        run_ingest(project)
    model = Model()
    model.pull(FIRST)
    model.pull(SECOND)
    assert_views_are(project, model)


def test_columns_of_one_name_are_kept_apart(project, run_ingest):
    """A self-join loses no column."""
    save(project, {"a": row("one")})
    run_ingest(project)
    found = ask(project, "SELECT a.item_id, b.item_id, a.chunk_no FROM docs a JOIN docs b USING (item_id)")
    assert found == [{"item_id": "a", "item_id_1": "a", "chunk_no": 0}]


def test_a_word_of_a_text_is_no_collection():
    """Only names and texts that are just a name bind a collection; the system tables bind all."""
    names = ["docs", "notes"]
    assert sql.collections_named("SELECT embed('docs', 'my notes') FROM docs_items", names) == ["docs"]
    assert sql.collections_named("SELECT * FROM search('notes', 'docs?', 3)", names) == ["notes"]
    assert sql.collections_named('SELECT 1 FROM "docs"', names) == ["docs"]
    assert sql.collections_named("SELECT 1", names) == names
    assert sql.collections_named("SELECT * FROM evervec.runs -- docs", names) == names


def test_search_in_a_held_connection_finds_what_its_views_hold(project, run_ingest):
    """Views and functions are of one moment, whatever is committed later."""
    save(project, {"a": row("one")})
    run_ingest(project)
    with reader.open(project) as lake:
        held = lake.connect()
        save(project, {"b": row("two")})
        run_ingest(project, yes=True)
        query = "SELECT d.text FROM search('docs', 'two', 5) s JOIN docs d USING (item_id, chunk_no)"
        assert held.execute(query).fetchall() == [("one",)]
        assert lake.sql(query).to_pylist() == [{"text": "two"}]

"""Nothing but reading the lake gets through the SQL door, however it is dressed up.

Every escape is a statement that DuckDB itself understands: it is refused for what it does, not for
how it is written. Around each, everything on disk is compared.
"""

import os
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from flows.ingest import IngestRequest, ingest
from flows.settings import load_project
from storage import sql
from storage.errors import QueryRefused
from storage.snapshot import Snapshot

CANARY = "canary-4711"
CTE_COPY = "WITH x AS (COPY (SELECT 1 AS a) TO '{lake}/out.csv') "
STANDING = (
    "SELECT (SELECT count(*) FROM docs) AS docs, (SELECT count(*) FROM docs_versions) AS versions, "
    "(SELECT items FROM evervec.collections) AS items"
)
NON_ASCII = "\N{LATIN SMALL LETTER E WITH ACUTE}"

WRITES = {
    "copy": "COPY (SELECT 1 AS a) TO '{lake}/out.csv'",
    "copy out of the lake": "COPY (SELECT 1 AS a) TO '{outside}/out.csv'",
    "copy over a data file": "COPY (SELECT 1 AS a) TO '{data}' (FORMAT parquet)",
    "copy into a table": "COPY evervec.runs FROM '{lake}/in.csv'",
    "copy a database": "COPY FROM DATABASE memory TO memory",
    "copy in WITH": CTE_COPY + "SELECT 1",
    "copy in WITH of a subquery": "SELECT * FROM (" + CTE_COPY + "SELECT 1)",
    "copy in WITH of a value": "SELECT (" + CTE_COPY + "SELECT 1)",
    "copy in WITH of a union": "SELECT 1 UNION ALL (" + CTE_COPY + "SELECT 2)",
    "copy in WITH in WITH": "WITH y AS (" + CTE_COPY + "SELECT 1) SELECT * FROM y",
    "copy in WITH of a VALUES": CTE_COPY + "VALUES (1)",
    "copy in WITH of a DESCRIBE": "DESCRIBE " + CTE_COPY + "SELECT 1",
    "copy in WITH of a SUMMARIZE": "SUMMARIZE " + CTE_COPY + "SELECT 1",
    "explain analyze copy": "EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO '{lake}/out.csv'",
    "explain analyze copy in WITH": "EXPLAIN ANALYZE " + CTE_COPY + "SELECT 1",
    "explain (analyze) copy": "EXPLAIN (ANALYZE) COPY (SELECT 1 AS a) TO '{lake}/out.csv'",
    "explain (analyze, format) copy in WITH": "EXPLAIN (ANALYZE, FORMAT json) " + CTE_COPY + "SELECT 1",
    "explain analyze with comments": "EXPLAIN /* SELECT 1 */ ANALYZE -- SELECT 1\n" + CTE_COPY + "SELECT 1",
    "two statements": "SELECT 1; COPY (SELECT 1 AS a) TO '{lake}/out.csv'",
    "two statements behind a NUL": "SELECT 1\0; COPY (SELECT 1 AS a) TO '{lake}/out.csv'",
    "after a line comment": "SELECT 1 -- harmless\n; COPY (SELECT 1 AS a) TO '{lake}/out.csv'",
    "after a block comment": "SELECT 1 /* ; */; COPY (SELECT 1 AS a) TO '{lake}/out.csv'",
    "a comment before it": "/* SELECT 1 */ COPY (SELECT 1 AS a) TO '{lake}/out.csv'",
    "after a dollar quote": "SELECT $$'$$; COPY (SELECT 1 AS a) TO '{lake}/out.csv' -- $$",
    "after a tagged dollar quote": "SELECT $a$ $$ '$a$; COPY (SELECT 1 AS a) TO '{lake}/out.csv' -- '",
    "after an E-string": "SELECT E'\\''; COPY (SELECT 1 AS a) TO '{lake}/out.csv' -- '",
    "attach": "ATTACH '{lake}/new.db'",
    "detach": "DETACH memory",
    "use": "USE evervec",
    "create table": "CREATE TABLE t AS SELECT 1 AS a",
    "create view": "CREATE OR REPLACE VIEW docs AS SELECT 1 AS a",
    "create macro": "CREATE OR REPLACE MACRO search(c, q, k := 10) AS TABLE SELECT 1 AS a",
    "create secret": "CREATE SECRET s (TYPE http)",
    "insert": "INSERT INTO evervec.collections SELECT * FROM evervec.collections",
    "insert in WITH": "WITH x AS (INSERT INTO docs_versions FROM docs_versions RETURNING 1) SELECT 1",
    "update": "UPDATE evervec.collections SET items = 0",
    "update in WITH": "WITH x AS (UPDATE evervec.collections SET items = 0 RETURNING 1) SELECT 1",
    "delete": "DELETE FROM docs_versions",
    "delete in WITH": "WITH x AS (DELETE FROM docs_versions RETURNING 1) SELECT * FROM x",
    "merge": "MERGE INTO docs_versions v USING docs_versions u ON true WHEN MATCHED THEN DELETE",
    "truncate": "TRUNCATE docs_versions",
    "alter": "ALTER TABLE docs_versions DROP COLUMN verb",
    "drop": "DROP VIEW docs",
    "drop schema": "DROP SCHEMA evervec CASCADE",
    "comment on": "COMMENT ON TABLE docs_versions IS 'mine'",
    "checkpoint": "CHECKPOINT",
    "vacuum": "VACUUM",
    "analyze": "ANALYZE",
    "begin": "BEGIN TRANSACTION",
    "export": "EXPORT DATABASE '{lake}/export'",
    "import": "IMPORT DATABASE '{lake}/export'",
    "install": "INSTALL httpfs",
    "install from a file": "INSTALL '{lake}/in.csv'",
    "load": "LOAD httpfs",
    "load a file": "LOAD '{lake}/in.csv'",
    "update extensions": "UPDATE EXTENSIONS",
    "pragma": "PRAGMA enable_external_access = true",
    "pragma function": "PRAGMA database_list",
    "set": "SET enable_external_access = true",
    "set global": "SET GLOBAL lock_configuration = false",
    "set variable": "SET VARIABLE x = 1",
    "reset": "RESET enable_external_access",
    "call": "CALL pragma_version()",
    "prepare": "PREPARE p AS COPY (SELECT 1 AS a) TO '{lake}/out.csv'",
    "execute": "EXECUTE p",
    "deallocate": "DEALLOCATE p",
    "copy in query()": "SELECT * FROM query('COPY (SELECT 1 AS a) TO ''{lake}/out.csv''')",
    "copy in WITH in query()": "FROM query('WITH x AS (COPY (SELECT 1) TO ''{lake}/o.csv'') SELECT 1')",
    "log to a file": "SELECT * FROM enable_logging(storage := 'file', storage_path := '{lake}/logs')",
    "profile to a file": "SELECT * FROM enable_profiling(save_location := '{lake}/profile.json')",
}

READS = {
    "read_text": "SELECT * FROM read_text('{secret}')",
    "read_blob": "SELECT * FROM read_blob('{secret}')",
    "read_csv": "SELECT * FROM read_csv('{secret}')",
    "read_json": "SELECT * FROM read_json('{outside}/secret.json')",
    "read_parquet": "SELECT * FROM read_parquet('{outside}/secret.parquet')",
    "parquet metadata": "SELECT * FROM parquet_kv_metadata('{outside}/secret.parquet')",
    "sniff": "SELECT * FROM sniff_csv('{secret}')",
    "database": "SELECT * FROM read_duckdb('{outside}/secret.db')",
    "glob": "SELECT * FROM glob('{outside}/*')",
    "read_text of a glob": "SELECT * FROM read_text('{outside}/*')",
    "up and out": "SELECT * FROM read_text('{lake}/../outside/secret.csv')",
    "down, up and out": "SELECT * FROM read_text('{lake}/docs/../../outside/secret.csv')",
    "relative path": "SELECT * FROM read_text('outside/secret.csv')",
    "a neighbour named like the lake": "SELECT * FROM read_text('{lake}_too/secret.csv')",
    "link to a file": "SELECT * FROM read_text('{lake}/link.csv')",
    "link to a folder": "SELECT * FROM read_text('{lake}/link/secret.csv')",
    "glob through a link": "SELECT * FROM read_text('{lake}/link/*')",
    "file as a table": "SELECT * FROM '{secret}'",
    "relative file as a table": "SELECT * FROM 'outside/secret.csv'",
    "link as a table": "SELECT * FROM '{lake}/link.csv'",
    "query_table": "SELECT * FROM query_table('{secret}')",
    "read in query()": "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "read in explain analyze": "EXPLAIN ANALYZE SELECT * FROM read_text('{secret}')",
    "read in serialized SQL": "SELECT * FROM json_execute_serialized_sql("
    "json_serialize_sql('SELECT * FROM read_text(''{secret}'')'))",
    "read in an external resource": "SELECT * FROM destroy_external_resource('read_text', '{secret}')",
    "http": "SELECT * FROM 'http://127.0.0.1:9/x.csv'",
    "https": "SELECT * FROM read_parquet('https://127.0.0.1:9/x.parquet')",
    "s3": "SELECT * FROM read_csv('s3://bucket/x.csv')",
    "file url": "SELECT * FROM read_text('file://{secret}')",
    "environment": "SELECT getenv('EVERVEC_CANARY')",
    "own environment": "SELECT * FROM read_text('/proc/self/environ')",
    "standard input": "SELECT * FROM read_csv('/dev/stdin')",
    "stored secrets": "SELECT * FROM duckdb_secrets()",
}


def everything(folder):
    """Every file and link below the folder, with its content."""
    return {
        path.relative_to(folder): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A lake with one collection, links out of it, and a secret beside it."""
    folder = tmp_path_factory.mktemp("sandbox")
    (folder / "docs").mkdir()
    (folder / "docs" / "a.txt").write_text("one two three")
    (folder / "docs" / "b.txt").write_text("four")
    (folder / "evervec.yaml").write_text(
        'encoders: {enc: {model: "fake:8"}}\n'
        "collections: {docs: {source: {kind: files, path: docs}, encoder: enc}}"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EVERVEC_LAKE", raising=False)
        project = load_project(folder)
    ingest(project, IngestRequest("docs"), lambda *_: None)
    outside, near = folder / "outside", folder / "lake_too"
    for other in (outside, near):
        other.mkdir()
        for name in ("secret.csv", "secret.json", "secret.parquet", "secret.db"):
            (other / name).write_text(f"a\n{CANARY}\n")
    (project.lake / "in.csv").write_text("a\n1\n")
    (project.lake / "link.csv").symlink_to(outside / "secret.csv")
    (project.lake / "link").symlink_to(outside)
    data = next((project.lake / "docs" / "data" / "items").iterdir())
    snapshots = {"docs": Snapshot.open(project.lake / "docs")}
    connection = sql.connect(project.lake, snapshots, lambda c, t: np.ones(8, np.float32), lambda c, q, k: [])
    yield SimpleNamespace(folder=folder, lake=project.lake, outside=outside, data=data, connection=connection)
    connection.close()


def ask(place, query):
    """The rows of a query at the one connection of this module, where a change would be seen later."""
    for name in ("lake", "outside", "data"):
        query = query.replace("{" + name + "}", str(getattr(place, name)))
    return sql.run(place.connection, query.replace("{secret}", str(place.outside / "secret.csv"))).to_pylist()


@pytest.fixture
def attempt(place, monkeypatch):
    """Run an escape from inside the project's folder; its refusal, after comparing everything on disk."""
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("EVERVEC_CANARY", CANARY)
    before = everything(place.folder)

    def run(query):
        with pytest.raises(QueryRefused) as caught:
            ask(place, query)
        assert ask(place, STANDING) == [{"docs": 2, "versions": 1, "items": 2}]
        assert everything(place.folder) == before
        assert CANARY not in str(caught.value)
        return str(caught.value)

    return run


@pytest.mark.parametrize("query", WRITES.values(), ids=WRITES)
def test_nothing_is_written_or_changed(attempt, query):
    """A statement that would change a file, a table or a setting is refused, and nothing is different."""
    assert "syntax error" not in attempt(query)


@pytest.mark.parametrize("query", READS.values(), ids=READS)
def test_nothing_outside_the_lake_is_read(attempt, query):
    """No file, variable, address or secret beyond the lake can be read."""
    assert "syntax error" not in attempt(query)


@pytest.mark.parametrize("query", ["FROM canary_rows", "EXPLAIN ANALYZE SELECT a FROM canary_rows"])
def test_python_variables_are_no_tables(attempt, monkeypatch, query):
    """A table in the memory of the program that asks, even in the very module, cannot be read."""
    monkeypatch.setattr(sql, "canary_rows", pa.table({"a": [CANARY]}), raising=False)
    assert "canary_rows does not exist" in attempt(query)


def test_explain_cannot_hide_what_it_explains_behind_wide_characters(attempt):
    """However many bytes a comment has, what EXPLAIN ANALYZE runs is what was checked."""
    for padding in range(160):
        attempt(f"EXPLAIN /*{NON_ASCII * padding}*/ ANALYZE {CTE_COPY}SELECT 1")


@pytest.mark.parametrize(
    "query", ["", "  \n", ";", "-- nothing", "SELECT", "EXPLAIN", "EXPLAIN ANALYZE", "EXPLAIN (", "\0"]
)
def test_no_statement_is_refused(attempt, query):
    """An empty or unfinished statement ends like any other that cannot be run."""
    attempt(query)


def test_two_statements_are_refused_though_both_only_read(attempt):
    """One result for one statement: the second would be lost, or the first."""
    assert "one statement, got 2" in attempt("SELECT 1; SELECT 2")


READING = {
    "select": ("SELECT count(*) AS n FROM docs", [{"n": 2}]),
    "from first": ("FROM docs SELECT item_id WHERE item_id = 'b.txt'", [{"item_id": "b.txt"}]),
    "semicolon": ("SELECT 1 AS a;", [{"a": 1}]),
    "comments": ("/* COPY */ SELECT 1 AS a -- ; DROP VIEW docs", [{"a": 1}]),
    "strings that look bad": (
        "SELECT '; COPY x TO y' AS a, $$ATTACH$$ AS b",
        [{"a": "; COPY x TO y", "b": "ATTACH"}],
    ),
    "with": ("WITH x AS (SELECT 2 AS a) SELECT * FROM x", [{"a": 2}]),
    "with materialized": ("WITH x AS MATERIALIZED (SELECT 2 AS a) SELECT a FROM x", [{"a": 2}]),
    "recursive": (
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) "
        "SELECT max(n) AS n FROM t",
        [{"n": 5}],
    ),
    "union": ("SELECT 1 AS a UNION SELECT 2 ORDER BY a", [{"a": 1}, {"a": 2}]),
    "except": ("SELECT item_id FROM docs EXCEPT SELECT 'a.txt'", [{"item_id": "b.txt"}]),
    "values": ("VALUES (1), (2)", [{"col0": 1}, {"col0": 2}]),
    "subquery": ("SELECT (SELECT count(*) FROM docs_items) AS n", [{"n": 2}]),
    "lateral": ("SELECT x FROM docs, unnest([chunk_no]) u(x) WHERE item_id = 'a.txt'", [{"x": 0}]),
    "window": ("SELECT row_number() OVER (ORDER BY item_id) AS n FROM docs LIMIT 1", [{"n": 1}]),
    "qualify": (
        "SELECT item_id FROM docs QUALIFY row_number() OVER (ORDER BY item_id) = 2",
        [{"item_id": "b.txt"}],
    ),
    "file of the lake": ("SELECT a FROM read_csv('{lake}/in.csv')", [{"a": 1}]),
    "query": ("SELECT * FROM query('SELECT 3 AS a')", [{"a": 3}]),
    "wide characters": ("SELECT '\N{GRINNING FACE}é' AS a", [{"a": "\N{GRINNING FACE}é"}]),
    "show tables": (
        "SHOW TABLES",
        [{"name": n} for n in ("docs", "docs_items", "docs_rejects", "docs_vectors", "docs_versions")],
    ),
}


@pytest.mark.parametrize(("query", "expected"), READING.values(), ids=READING)
def test_reading_works(place, query, expected):
    """The door is open for every way to read."""
    assert ask(place, query) == expected


@pytest.mark.parametrize(
    ("query", "column", "value"),
    [
        ("DESCRIBE docs", "column_name", "item_id"),
        ("DESCRIBE SELECT item_id FROM docs", "column_name", "item_id"),
        ("SUMMARIZE docs", "column_name", "item_id"),
        ("SHOW ALL TABLES", "name", "runs"),
    ],
)
def test_the_views_can_be_described(place, query, column, value):
    """What is there, and of which types, can be asked for."""
    assert value in [row[column] for row in ask(place, query)]


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("EXPLAIN SELECT * FROM docs", "physical_plan"),
        ("explain analyze SELECT * FROM docs", "analyzed_plan"),
        ("EXPLAIN (ANALYZE) SELECT * FROM docs", "analyzed_plan"),
        ("EXPLAIN (FORMAT json) WITH x AS (SELECT 1) SELECT * FROM x", "physical_plan"),
        ("EXPLAIN -- why\n SELECT 1", "physical_plan"),
        ("EXPLAIN/**/ANALYZE/**/SELECT 1", "analyzed_plan"),
        (f"EXPLAIN /* {NON_ASCII * 9} */ ANALYZE SELECT '{NON_ASCII}'", "analyzed_plan"),
    ],
)
def test_plans_can_be_shown(place, query, key):
    """EXPLAIN and EXPLAIN ANALYZE of a SELECT work, with comments and options anywhere."""
    assert [row["explain_key"] for row in ask(place, query)] == [key]


def test_the_settings_that_lock_the_door_are_in_force(place):
    """External access is off but for the lake, no extension is fetched, and none of it can be changed."""
    names = {
        "enable_external_access": False,
        "lock_configuration": True,
        "autoload_known_extensions": False,
        "autoinstall_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
        "allowed_directories": [f"{place.lake}/"],
    }
    shown = ", ".join(f"current_setting('{name}') AS {name}" for name in names)
    assert ask(place, f"SELECT {shown}") == [names]

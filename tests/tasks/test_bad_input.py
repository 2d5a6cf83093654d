"""Hostile and broken input: a reject with stage and reason, or one clear error; good rows always land."""

import json

import numpy as np
import pytest

from encoders import fake
from storage.errors import UnreadableTable
from tasks import reader

TABLE = """
    encoders: {{enc: {{model: "fake:16"}}}}
    collections:
      rows:
        source: {{kind: table, path: {name}, id: id, text: text}}
        encoder: enc
        max_deleted: 1.0
"""


def rejects(project, collection):
    with reader.open(project) as lake:
        rows = lake.sql(f"SELECT item_id, stage, reason FROM {collection}_rejects").to_pylist()
    return {r["item_id"]: (r["stage"], r["reason"]) for r in rows}


def landed(project, collection):
    with reader.open(project) as lake:
        return sorted(r["item_id"] for r in lake.sql(f"SELECT item_id FROM {collection}_items").to_pylist())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the text is empty"),
        (b" \n\t \r\n", "only white space"),
        (b"\x00\x01\x02", "NUL byte"),
        (bytes(range(1, 32)) * 20, "control characters"),
        (b"ok\x00ok", "NUL byte"),
        (b"x" * (50 * 2**20), "at most 16,777,216 are taken"),
        ("\ud800 lone".encode("utf-8", "surrogatepass"), ""),
    ],
    ids=["empty", "white space", "binary", "control characters", "NUL", "50 MB line", "lone surrogate"],
)
def test_a_bad_file_is_a_reject_and_the_good_one_lands(make_project, run_ingest, content, reason):
    """Stage and reason are kept; nothing else is touched."""
    project = make_project()
    (project.root / "docs/bad.txt").write_bytes(content)
    (project.root / "docs/good.txt").write_text("good")
    report = run_ingest(project)
    if reason:  # a file's encoding is found out: bytes that are no UTF-8 can still be text
        assert (report.added, report.rejected) == (1, 1)
        assert landed(project, "docs") == ["good.txt"]
        stage, said = rejects(project, "docs")["bad.txt"]
        assert stage == "decode"
        assert reason in said
    else:
        assert "good.txt" in landed(project, "docs")


def test_mixed_newlines_and_odd_names_are_just_text(make_project, run_ingest, index_of):
    """Quotes, slashes, emoji and dots in ids survive files, SQL and search."""
    project = make_project()
    names = [
        'it\'s "quoted".txt',
        "emoji 🙂 é.txt",
        "..hidden..txt",
        "a;DROP TABLE docs;--.txt",
        "sub/dir/x.txt",
    ]
    for name in names:
        path = project.root / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"text of {name}\r\nsecond\rthird\n".encode())
    run_ingest(project)
    assert landed(project, "docs") == sorted(names)
    with reader.open(project) as lake:
        for name in names:
            expected = f"text of {name}\nsecond\nthird\n"
            assert lake.search("docs", expected, 1).hits[0].item_id == name
    (project.root / "docs" / names[0]).unlink()
    (project.root / "docs" / names[1]).write_text("edited")
    report = run_ingest(project)
    assert (report.deleted, report.updated) == (1, 1)
    assert index_of(project).num_rows == len(names) - 1


def test_hostile_ids_of_a_table_are_just_ids(make_project, run_ingest, index_of, tmp_path):
    """Ids are data: they never become paths or SQL."""
    ids = [
        "../../etc/passwd",
        "a'b",
        'a"b',
        "🙂",
        "x" * 5_000,
        "' OR 1=1 --",
        "\\",
        "%s{}",
        "tab\there",
        "\u202e",
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": f"text {n}"}) + "\n" for n, i in enumerate(ids)))
    project = make_project(TABLE.format(name="rows.jsonl"))
    assert run_ingest(project, "rows").added == len(ids)
    assert landed(project, "rows") == sorted(ids)
    path.write_text("".join(json.dumps({"id": i, "text": f"new {n}"}) + "\n" for n, i in enumerate(ids)))
    assert run_ingest(project, "rows").updated == len(ids)
    path.write_text(json.dumps({"id": ids[1], "text": "new 1"}) + "\n")
    assert run_ingest(project, "rows").deleted == len(ids) - 1
    assert index_of(project, "rows").num_rows == 1


def test_null_and_surrogate_texts_in_a_table_are_rejects(make_project, run_ingest, tmp_path):
    """Each says why; the good row lands."""
    rows = [
        {"id": "none", "text": None},
        {"id": "lone", "text": "a \ud800 b"},
        {"id": "good", "text": "good"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    project = make_project(TABLE.format(name="rows.jsonl"))
    report = run_ingest(project, "rows")
    assert (report.added, report.rejected) == (1, 2)
    found = rejects(project, "rows")
    assert "null" in found["none"][1]
    assert "lone surrogate" in found["lone"][1]
    assert run_ingest(project, "rows").version == report.version


def test_a_csv_with_a_broken_row_lands_the_others(make_project, run_ingest, tmp_path):
    """The broken row is named by its number."""
    (tmp_path / "rows.csv").write_text("id,text\na,one\nb,two,too many\nc,three\n")
    project = make_project(TABLE.format(name="rows.csv"))
    report = run_ingest(project, "rows")
    assert (report.added, report.rejected) == (2, 1)
    assert landed(project, "rows") == ["a", "c"]
    with reader.open(project) as lake:
        found = lake.sql("SELECT uri, stage, reason FROM rows_rejects").to_pylist()[0]
    assert found["uri"].endswith("rows.csv#row=2")
    assert found["stage"] == "pull"


def test_a_table_without_its_id_column_is_one_error_before_any_work(make_project, run_ingest, tmp_path):
    """The columns that there are, and what to correct."""
    (tmp_path / "rows.csv").write_text("sku,text\na,one\n")
    project = make_project(TABLE.format(name="rows.csv"))
    with pytest.raises(UnreadableTable, match=r"no column 'id'; it has sku, text.*evervec.yaml"):
        run_ingest(project, "rows")


@pytest.mark.parametrize(("number", "said"), [(np.nan, "NaN"), (np.inf, "infinite"), (0.0, "zero vector")])
def test_unusable_vectors_are_rejects_of_the_encode_stage(
    make_project, run_ingest, monkeypatch, number, said
):
    """LanceDB would take them and never find them again."""
    whole = fake.FakeEncoder.encode

    def encode(self, texts):
        out = whole(self, texts).copy()
        for row, text in enumerate(texts):
            if "poison" in text:
                out[row] = number
        return out

    monkeypatch.setattr(fake.FakeEncoder, "encode", encode)
    project = make_project()
    (project.root / "docs/bad.txt").write_text("poison")
    (project.root / "docs/good.txt").write_text("good")
    report = run_ingest(project)
    assert (report.added, report.rejected) == (1, 1)
    stage, reason = rejects(project, "docs")["bad.txt"]
    assert stage == "encode"
    assert said in reason


def test_an_encoder_that_raises_on_one_text_loses_that_text_only(make_project, run_ingest, monkeypatch):
    """The batch is tried again text by text, and the culprit is named."""
    whole = fake.FakeEncoder.encode

    def encode(self, texts):
        if any("poison" in text for text in texts):
            raise MemoryError("too much")
        return whole(self, texts)

    monkeypatch.setattr(fake.FakeEncoder, "encode", encode)
    project = make_project()
    for name in ("a", "poison", "c"):
        (project.root / f"docs/{name}.txt").write_text(f"text {name}")
    report = run_ingest(project)
    assert (report.added, report.rejected) == (2, 1)
    assert "MemoryError: too much" in rejects(project, "docs")["poison.txt"][1]

"""Vectors made elsewhere: what is checked, where they go, and that an import can be repeated and resumed."""

import json
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoders.catalog import open_encoder
from encoders.errors import EncoderError
from flows.export import ExportRequest, export
from flows.imports import ImportRequest, import_vectors
from storage import transaction
from storage.errors import CommitConflict, UnreadableTable
from storage.snapshot import Snapshot
from tasks import import_rows, import_windows, reader
from tasks.errors import BadRows, EncoderChanged, NothingThere, Refused, RunFailed, SourceUnusable
from tasks.imports import Given
from tasks.releases import promote

YAML = """
    lake: ./lake
    encoders:
      enc: {model: "fake:16"}
      other: {model: "fake:16", document_prompt: "p: "}
      wide: {model: "fake:32"}
    collections:
      made:
        source: {kind: table, path: table.parquet, id: sku, text: text, attributes: [price]}
        encoder: enc
        max_deleted: 1.0
      again: {encoder: enc}
      bare: {}
      docs:
        source: {kind: files, path: docs}
        encoder: enc
        chunk: {max_tokens: 8, overlap: 2}
        max_deleted: 1.0
"""


@pytest.fixture
def project(make_project):
    return make_project(YAML)


def vectors_of(texts, project, name="enc"):
    from encoders.catalog import describe

    spec = project.encoders[name]
    return open_encoder(spec, describe(spec, project.hashes())).encode(texts)


def write_table(project, rows, name="table.parquet", **types):
    """Rows as a Parquet or JSONL file in the project's folder; vectors as lists."""
    path = project.root / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    names = list(dict.fromkeys(n for row in rows for n in row))
    pq.write_table(pa.table({n: pa.array([r.get(n) for r in rows], types.get(n)) for n in names}), path)
    return path


def good_rows(project, count=6):
    texts = [f"text of number {n}" for n in range(count)]
    vectors = vectors_of(texts, project).tolist()
    return [
        {"sku": f"s{n}", "text": t, "price": n * 1.5, "v": v}
        for n, (t, v) in enumerate(zip(texts, vectors, strict=True))
    ]


@pytest.fixture
def bring(project):
    """Import a table into a collection; the report."""

    def run(path, collection="made", *, yes=False, dry_run=False, **given):
        if given.pop("columns", True):
            given = {"id": "sku", "vector": "v", "text": "text", **given}
        if not {"encoder", "space"} & set(given):
            given["encoder"] = "enc"
        given = {k: v for k, v in given.items() if v is not None}
        request = ImportRequest(collection, Given(path, **given), yes=yes, dry_run=dry_run)
        return import_vectors(project, request, lambda *_: None)

    return run


def sql(project, query):
    with reader.open(project) as lake:
        return lake.sql(query).to_pylist()


def items_of(project, collection="made"):
    rows = sql(project, f"SELECT * EXCLUDE (run_id, observed_at) FROM {collection}_items ORDER BY item_id")
    return {r["item_id"]: r for r in rows}


def chunks_of(project, collection="made"):
    return sql(
        project,
        f"SELECT * EXCLUDE (run_id, observed_at, origin) FROM {collection} ORDER BY item_id, chunk_no",
    )


def rejects_of(project, collection="made"):
    rows = sql(project, f"SELECT item_id, stage, reason FROM {collection}_rejects ORDER BY ALL")
    return [(r["item_id"], r["stage"], r["reason"]) for r in rows]


def head_of(project, collection="made"):
    return Snapshot.open(project.lake / collection).head


# What comes in


@pytest.mark.parametrize("name", ["table.parquet", "table.jsonl"])
def test_a_table_of_vectors_is_searched_like_one_that_was_ingested(project, bring, name):
    """Rows become items with their texts, attributes and very vectors, in a live first release."""
    rows = good_rows(project)
    report = bring(write_table(project, rows, name), attributes=("price",))
    assert (report.rows, report.items, report.imported, report.rejected, report.chunks) == (6, 6, 6, 0, 6)
    assert (report.version, report.release, report.live) == (1, 1, True)
    found = chunks_of(project)
    assert [(r["item_id"], r["text"], r["price"]) for r in found] == [
        (r["sku"], r["text"], r["price"]) for r in rows
    ]
    assert [list(r["vector"]) for r in found] == [np.float32(r["v"]).tolist() for r in rows]
    release = head_of(project).live
    assert (release.strategy, release.encoder["model"]) == ("imported", "fake:16")
    with reader.open(project) as lake:
        hit = lake.search("made", "text of number 3", 1).hits[0]
    assert (hit.item_id, hit.origin, hit.text, round(hit.score, 5)) == (
        "s3",
        "imported",
        "text of number 3",
        1,
    )


def test_the_next_ingest_of_the_same_source_encodes_nothing(project, bring, run_ingest):
    """Hashes and attributes are those that an ingest would have written."""
    windows = {
        "sku": "w",
        "text": "a\r\nb\r\n",
        "price": 1.0,
        "v": vectors_of(["a\nb\n"], project)[0].tolist(),
    }
    bring(write_table(project, [*good_rows(project), windows]), attributes=("price",))
    report = run_ingest(project, "made")
    assert (report.unchanged, report.encoded, report.updated, report.added) == (7, 0, 0, 0)
    assert report.version == 1


def test_an_ingest_over_imported_rows_encodes_only_what_changed(project, bring, run_ingest):
    """Imported vectors stand until the content of their item changes, and are never reused for others."""
    rows = good_rows(project)
    bring(write_table(project, rows), attributes=("price",))
    rows[2]["text"] = "another text"
    write_table(project, [*rows, {"sku": "twin", "text": rows[0]["text"], "price": 0.0}])
    report = run_ingest(project, "made")
    assert (report.unchanged, report.encoded, report.added, report.updated) == (5, 2, 1, 1)
    origins = sql(project, "SELECT origin, count(*) AS n FROM made GROUP BY ALL ORDER BY ALL")
    assert origins == [{"origin": "encoded", "n": 2}, {"origin": "imported", "n": 5}]


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32(), 16), pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16())],
    ids=str,
)
def test_vectors_may_come_in_any_type_of_list(project, bring, kind):
    """Fixed or not, of halves, floats or doubles: what is stored is float32."""
    rows = good_rows(project)
    if pa.types.is_float16(kind.value_type):
        rows = [{**r, "v": np.float16(r["v"])} for r in rows]
    bring(write_table(project, rows, v=kind), yes=True)
    stored = np.array([r["vector"] for r in chunks_of(project)])
    assert np.allclose(stored, [r["v"] for r in rows], atol=1e-3)


def test_a_folder_of_parquet_files_is_one_table(project, bring):
    """Files of one folder are read together, in the order of their names; ids may be numbers."""
    rows = [{**r, "sku": n} for n, r in enumerate(good_rows(project))]
    write_table(project, rows[:2], "parts/a.parquet")
    write_table(project, rows[2:], "parts/b.parquet")
    assert bring(project.root / "parts").imported == 6
    assert list(items_of(project)) == ["0", "1", "2", "3", "4", "5"]


# Rows that cannot be used


def test_bad_rows_are_rejects_and_the_others_come_in(project, bring):
    """Each row that cannot be used says why; none takes another along."""
    rows = good_rows(project, 12)
    rows[1]["v"] = None
    rows[2]["v"] = rows[2]["v"][:15]
    rows[3]["v"] = [float("nan"), *rows[3]["v"][1:]]
    rows[4]["v"] = [float("inf"), *rows[4]["v"][1:]]
    rows[5]["v"] = [0.0] * 16
    rows[6]["text"] = None
    rows[7]["text"] = "  "
    rows[8]["sku"] = None
    rows[9]["v"] = [None, *rows[9]["v"][1:]]
    report = bring(write_table(project, rows))
    assert (report.rows, report.imported, report.rejected) == (12, 3, 9)
    odd = "the vector holds NaN, infinite or missing numbers"
    assert rejects_of(project) == [
        ("s1", "encode", "the vector is missing"),
        ("s2", "encode", "the vector has 15 numbers, expected 16"),
        ("s3", "encode", odd),
        ("s4", "encode", odd),
        ("s5", "encode", "the vector is all zeros: it has no direction to compare"),
        ("s6", "decode", "there is no text: the value is null"),
        ("s7", "decode", "the text is only white space"),
        ("s9", "encode", odd),
        (None, "pull", "the id is missing or not valid UTF-8"),
    ]
    where = sql(project, "SELECT uri FROM made_rejects WHERE item_id IS NULL")[0]["uri"]
    assert where == f"{project.root}/table.parquet#row=9"


def test_bad_lines_of_json_are_rejects(project, bring):
    """Lines that are no JSON, or whose vector is no list of numbers, cost only themselves."""
    rows = good_rows(project)
    path = write_table(project, rows, "table.jsonl")
    odd = [{**rows[0], "sku": "x", "v": "words"}, {**rows[0], "sku": "y", "v": [True] * 16}, {"sku": "z"}]
    path.write_text(path.read_text() + "".join(json.dumps(r) + "\n" for r in odd) + "{torn\n[1]\n")
    report = bring(path)
    assert (report.imported, report.rejected) == (6, 5)
    assert [(i, r.partition(":")[0]) for i, _, r in rejects_of(project)] == [
        ("x", "the vector is no list of numbers"),
        ("y", "the vector is no list of numbers"),
        ("z", "the vector is missing"),
        (None, "a JSON list, expected an object"),
        (None, "not a JSON value"),
    ]


def test_text_that_is_not_utf8_is_a_reject(project, bring):
    """Bytes posing as text are told with the place where they stop being it."""
    rows = [{**r, "text": r["text"].encode()} for r in good_rows(project)]
    rows[1]["text"] = b"caf\xe9"
    assert bring(write_table(project, rows)).rejected == 1
    assert rejects_of(project)[0][1:] == (
        "decode",
        "not valid utf-8 at byte 3 (unexpected end of data); a lone surrogate or binary data",
    )


def test_ids_that_come_twice_stop_the_import_before_anything_is_written(project, bring):
    """The message names the rows, and what to do if the rows are chunks; a rejected row counts too."""
    rows = good_rows(project)
    rows[4]["sku"] = "s1"
    rows[5] |= {"sku": "s2", "v": None}
    with pytest.raises(BadRows, match=r"'s1' is in row 2 and row 5; 's2' is in row 3 and row 6.*--chunk"):
        bring(write_table(project, rows))
    assert head_of(project) is None


def test_a_table_without_one_usable_row_fails(project, bring):
    """A whole table of rejects is a mistake in the command, not a collection of nothing."""
    rows = [{**r, "text": ""} for r in good_rows(project)]
    with pytest.raises(RunFailed, match=r"none of the 6 rows .* mostly because the text is empty"):
        bring(write_table(project, rows))
    assert head_of(project) is None


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"encoder": "nope"}, SourceUnusable, "no encoder 'nope'.* enc, other, wide"),
        ({"encoder": "wide"}, EncoderChanged, "vectors of 16 numbers, encoder 'wide' gives 32"),
        ({"encoder": None, "space": None}, SourceUnusable, "--encoder ENC .*enc, other, wide.*--space NAME"),
        ({"space": "My Space"}, SourceUnusable, "small letters"),
        ({"encoder": "enc", "space": "s"}, SourceUnusable, "not both"),
        ({"space": "s"}, EncoderChanged, "declares encoder 'enc'"),
        ({"encoder": "other"}, EncoderChanged, "declares encoder 'enc'"),
        ({"text": "words"}, UnreadableTable, "no column 'words'; it has sku, text, price, v"),
        ({"vector": "price"}, SourceUnusable, "column 'price' holds no list of numbers"),
        ({"text": None}, SourceUnusable, "--text COL or --uri COL"),
        ({"attributes": ("v", "v")}, SourceUnusable, "have one name"),
        ({"attributes": ("text",)}, SourceUnusable, "attribute 'text' has a name"),
    ],
)
def test_commands_that_cannot_be_meant_stop_before_any_work(project, bring, given, error, said):
    """Each says what was given, what was expected, and what to do; nothing is written."""
    with pytest.raises(error, match=said):
        bring(write_table(project, good_rows(project)), **given)
    assert head_of(project) is None


def test_files_that_are_no_tables_are_refused(project, bring):
    """A path that leads nowhere, to an empty folder or to another kind of file, says so."""
    (project.root / "empty").mkdir()
    (project.root / "x.csv").write_text("a,b")
    (project.root / "x.parquet").write_text("no")
    for name in ("empty", "x.csv", "x.parquet"):
        with pytest.raises(UnreadableTable):
            bring(project.root / name)
    with pytest.raises(SourceUnusable, match="there is no"):
        bring(project.root / "nowhere.parquet")
    with pytest.raises(NothingThere):
        bring(write_table(project, good_rows(project)), "unknown")


# Whose vectors they are


def test_vectors_of_another_encoder_are_never_taken_for_its_own(project, bring):
    """Mixing spaces is the worst error: texts are encoded and compared, and no --yes helps below 0.9."""
    rows = good_rows(project)
    for row, vector in zip(rows, vectors_of([r["text"] for r in rows], project, "other"), strict=True):
        row["v"] = vector.tolist()
    for yes in (False, True):
        with pytest.raises(Refused, match=r"cosine is -?0\.\d+.*--space NAME"):
            bring(write_table(project, rows), yes=yes)
    assert head_of(project) is None


def test_vectors_a_little_off_need_a_yes(project, bring):
    """Between 0.9 and 0.99 a person decides, once told the cosine; above nobody is asked."""
    rng = np.random.default_rng(0)
    rows = good_rows(project, 40)
    for row in rows:
        noisy = np.array(row["v"]) + rng.normal(0, 0.08, 16)
        row["v"] = (noisy / np.linalg.norm(noisy)).tolist()
    path = write_table(project, rows)
    with pytest.raises(Refused, match=r"cosine is 0\.9\d\d, expected 0.99.*--yes"):
        bring(path)
    report = bring(path, yes=True)
    assert report.imported == 40
    assert any("mean cosine 0.9" in note for note in report.notes)


def test_vectors_that_are_not_of_length_one_need_a_yes_and_are_scaled(project, bring):
    """The count is told; scaled vectors are those of the encoder again, so one space has one length."""
    rows = good_rows(project)
    exact = [r["v"] for r in rows]
    rows[0]["v"] = [3 * x for x in rows[0]["v"]]
    rows[1]["v"] = [0.5 * x for x in rows[1]["v"]]
    path = write_table(project, rows)
    with pytest.raises(Refused, match="2 of 6 vectors are not of length 1"):
        bring(path)
    bring(path, yes=True)
    assert np.allclose([r["vector"] for r in chunks_of(project)], exact, atol=1e-6)
    assert bring(path, yes=True).version == 1


def test_a_space_whose_encoder_is_not_at_hand(project, bring):
    """Name and dims are its identity: vectors are there for SQL and later upgrades, text search refuses."""
    rows = [{**r, "v": [3 * x for x in r["v"]]} for r in good_rows(project)]
    report = bring(write_table(project, rows), "bare", space="openai_small")
    assert report.space_id.startswith("openai_small_16_")
    assert (head_of(project, "bare").live.encoder, len(chunks_of(project, "bare"))) == ({}, 6)
    with reader.open(project) as lake, pytest.raises(EncoderChanged, match="not at hand"):
        lake.search("bare", "anything")
    more = [{**r, "sku": f"m{n}"} for n, r in enumerate(rows)]
    again = bring(write_table(project, more, "more.parquet"), "bare", space="openai_small")
    assert (again.release, again.space_id, again.added) == (1, report.space_id, 6)


# Into a collection that has items


def test_the_same_import_again_changes_nothing(project, bring):
    """No version, no file: everything is unchanged, rejects included."""
    rows = good_rows(project)
    rows[3]["v"] = None
    path = write_table(project, rows)
    first, second = bring(path, attributes=("price",)), bring(path, attributes=("price",))
    assert (second.unchanged, second.imported, second.rejected, second.chunks) == (5, 0, 1, 0)
    assert first.version == second.version == 2 - (first.version == 1)


def test_items_that_were_encoded_here_keep_their_vectors(project, bring, run_ingest):
    """What the encoder made stands; only what it has not seen comes in."""
    rows = good_rows(project)
    write_table(project, rows[:4])
    run_ingest(project, "made")
    report = bring(write_table(project, rows), attributes=("price",))
    assert (report.unchanged, report.added, report.imported) == (4, 2, 2)
    assert any("4 items keep" in note for note in report.notes)
    origins = {r["item_id"]: r["origin"] for r in sql(project, "SELECT item_id, origin FROM made")}
    assert origins == {f"s{n}": "encoded" if n < 4 else "imported" for n in range(6)}


def test_other_vectors_texts_and_attributes_replace_those_imported_before(project, bring):
    """A corrected table brings every view up to date: rows, vectors, index, attributes."""
    rows = good_rows(project)
    bring(write_table(project, rows), "bare", attributes=("price",), space="s")
    rows[0]["v"] = [-x for x in rows[0]["v"]]
    rows[1]["text"] = "another text"
    rows[2]["price"] = 99.0
    rows[3]["price"] = 98.0
    rows[3]["v"] = [-x for x in rows[3]["v"]]
    report = bring(write_table(project, rows), "bare", attributes=("price",), space="s")
    assert (report.imported, report.added, report.unchanged, report.chunks) == (4, 0, 2, 3)
    found = {r["item_id"]: r for r in chunks_of(project, "bare")}
    for row in rows:
        stored = found[row["sku"]]
        assert (stored["text"], stored["price"]) == (row["text"], row["price"])
        assert np.allclose(stored["vector"], row["v"], atol=1e-6)
    assert index_of(project, "bare") == [(r["sku"], r["text"], r["price"]) for r in rows]


def index_of(project, collection="made"):
    """What the index of the live space holds at the head."""
    from storage.vectors import Index

    named = head_of(project, collection).index
    table = Index(project.lake, named.table).open_at(named).table.to_arrow()
    return sorted((r["item_id"], r["text"], r.get("price")) for r in table.to_pylist())


def test_attributes_that_are_not_given_stay_as_they_are(project, bring):
    """An import without --attributes takes none away; new items have none."""
    rows = good_rows(project)
    bring(write_table(project, rows[:3]), attributes=("price",))
    report = bring(write_table(project, rows))
    assert (report.unchanged, report.added) == (3, 3)
    assert [r["price"] for r in items_of(project).values()] == [0.0, 1.5, 3.0, None, None, None]


def test_another_space_becomes_a_release_beside_the_live_one(project, bring, run_ingest):
    """Readers go on as they were; only items that stand with that content get vectors, and one can switch."""
    rows = good_rows(project)
    write_table(project, rows)
    run_ingest(project, "made")
    texts = [r["text"] for r in rows]
    for row, vector in zip(rows, vectors_of(texts, project, "wide"), strict=True):
        row["v"] = vector.tolist()
    rows[1]["text"] = "what it never said"
    rows[1]["v"] = vectors_of(["what it never said"], project, "wide")[0].tolist()
    rows.append(
        {"sku": "new", "text": "x", "price": 1.0, "v": vectors_of(["x"], project, "wide")[0].tolist()}
    )
    path = write_table(project, rows, "wide.parquet")
    report = bring(path, encoder="wide")
    assert (report.release, report.live, report.imported, report.rejected) == (2, False, 5, 2)
    assert any("evervec promote made 2" in note for note in report.notes)
    head = head_of(project)
    assert (head.live_release, head.total_items, head.spaces[report.space_id].imported) == (1, 6, 5)
    assert [(i, r[:34]) for i, _, r in rejects_of(project)] == [
        ("new", "the item is not in the collection,"),
        ("s1", "the collection has other content u"),
    ]
    assert bring(path, encoder="wide").version == report.version
    promote(project, "made", 2, yes=True, dry_run=False)
    with reader.open(project) as lake:
        hit = lake.search("made", texts[4], 1).hits[0]
    assert (hit.item_id, round(hit.score, 5)) == ("s4", 1)


def test_rejects_of_an_import_never_keep_an_ingest_from_an_item(project, bring, run_ingest):
    """An id that an import could not place is encoded as soon as the source has it."""
    rows = good_rows(project)
    write_table(project, rows[:3])
    run_ingest(project, "made")
    wide = vectors_of([r["text"] for r in rows], project, "wide")
    bring(
        write_table(
            project, [{**r, "v": v.tolist()} for r, v in zip(rows, wide, strict=True)], "wide.parquet"
        ),
        encoder="wide",
    )
    assert len(rejects_of(project)) == 3
    write_table(project, rows)
    report = run_ingest(project, "made")
    assert (report.added, report.rejected) == (3, 0)
    assert rejects_of(project) == []


def test_an_import_that_fits_nothing_makes_no_release(project, bring, run_ingest):
    """A space without a single vector would be a release that finds nothing."""
    rows = good_rows(project)
    write_table(project, rows[:3])
    run_ingest(project, "made")
    wide = vectors_of(["a"], project, "wide")[0].tolist()
    strange = [{"sku": f"q{n}", "text": "a", "price": 0.0, "v": wide} for n in range(3)]
    with pytest.raises(RunFailed, match=r"none of the 3 items .* not in the collection"):
        bring(write_table(project, strange, "wide.parquet"), encoder="wide")
    assert len(head_of(project).releases) == 1


def test_a_dry_run_writes_nothing_and_says_what_would_be(project, bring):
    """The same checks and counts, no version, no folder."""
    report = bring(write_table(project, good_rows(project)), dry_run=True)
    assert (report.imported, report.chunks, report.version, report.dry_run) == (6, 6, 0, True)
    assert not (project.lake / "made").exists()


# Chunks


def chunk_rows(project, texts, **more):
    vectors = vectors_of(texts, project).tolist()
    return [
        {"sku": "a", "n": n, "text": t, "v": v, **more}
        for n, (t, v) in enumerate(zip(texts, vectors, strict=True))
    ]


def test_chunks_are_put_together_in_the_order_of_their_column(project, bring):
    """Without offsets, texts stand one after the other, and every span cuts out its own chunk."""
    rows = [*chunk_rows(project, ["one", "two", "drei"]), *chunk_rows(project, ["only"])]
    rows[3]["sku"] = "b"
    mixed = [rows[2], rows[3], rows[0], rows[1]]
    report = bring(write_table(project, mixed), chunk="n")
    assert (report.items, report.chunks) == (2, 4)
    assert items_of(project)["a"]["text"] == "one\ntwo\ndrei"
    assert [(r["item_id"], r["chunk_no"], r["text"]) for r in chunks_of(project)] == [
        ("a", 0, "one"),
        ("a", 1, "two"),
        ("a", 2, "drei"),
        ("b", 0, "only"),
    ]
    assert [list(r["vector"]) for r in chunks_of(project)] == [np.float32(r["v"]).tolist() for r in rows]


def test_offsets_restore_the_text_with_its_overlaps(project, bring):
    """chunk_start and chunk_end are code points; what lies between chunks is white space."""
    whole = "ein Käse, zwei Käse und drei"
    spans = [(0, 9), (5, 19), (20, 28)]
    rows = chunk_rows(project, [whole[a:b] for a, b in spans])
    for row, (start, end) in zip(rows, spans, strict=True):
        row |= {"chunk_start": start, "chunk_end": end}
    bring(write_table(project, rows[::-1]), chunk="n")
    assert items_of(project)["a"]["text"] == whole
    assert [r["text"] for r in chunks_of(project)] == [whole[a:b] for a, b in spans]


def test_chunks_that_contradict_each_other_make_no_item(project, bring):
    """All chunks of an item come in, or none: bad offsets, overlaps that differ, one bad vector."""
    fine = chunk_rows(project, ["all well"], chunk_start=0, chunk_end=8)
    length = chunk_rows(project, ["abc"], chunk_start=0, chunk_end=9)
    overlap = chunk_rows(project, ["abcdef", "XXghi"], chunk_start=0, chunk_end=6)
    overlap[1] |= {"chunk_start": 4, "chunk_end": 9}
    vector = chunk_rows(project, ["abc", "def"], chunk_start=0, chunk_end=3)
    vector[1] |= {"v": None, "chunk_start": 3, "chunk_end": 6}
    unnumbered = chunk_rows(project, ["abc"], chunk_start=0, chunk_end=3)
    unnumbered[0]["n"] = None
    named = {"ok": fine, "length": length, "overlap": overlap, "vector": vector, "unnumbered": unnumbered}
    rows = [{**row, "sku": name} for name, some in named.items() for row in some]
    report = bring(write_table(project, rows), chunk="n")
    assert (report.imported, report.rejected) == (1, 4)
    assert list(items_of(project)) == ["ok"]
    assert [(i, r) for i, _, r in rejects_of(project)] == [
        ("length", "chunk_start 0 and chunk_end 9 do not fit a text of 3 characters"),
        ("overlap", "two chunks say different things about character 4 and what follows"),
        ("unnumbered", "n is missing or no whole number"),
        ("vector", "the vector is missing"),
    ]


def test_a_chunk_that_comes_twice_stops_the_import(project, bring):
    """Two rows for one chunk of one item cannot both be it."""
    rows = chunk_rows(project, ["one", "two", "three"])
    rows[2]["n"] = 1
    with pytest.raises(BadRows, match=r"'a' is in row 2 and row 3; each chunk number may come once"):
        bring(write_table(project, rows), chunk="n")


# Items without text


def test_items_may_be_known_by_their_place_alone(project, bring):
    """With --uri there is no text: the pointer is kept, and nothing is compared."""
    rows = [
        {"sku": r["sku"], "where": f"https://example.org/{r['sku']}.png", "v": r["v"]}
        for r in good_rows(project)
    ]
    path = write_table(project, rows)
    report = bring(path, "bare", text=None, uri="where", space="pictures")
    assert (report.imported, report.rejected) == (6, 0)
    stored = items_of(project, "bare")["s0"]
    assert (stored["text"], stored["uri"], stored["bytes"]) == (None, "https://example.org/s0.png", 0)
    assert bring(path, "bare", text=None, uri="where", space="pictures").version == report.version


def test_vectors_without_text_go_to_the_items_of_that_id(project, bring, run_ingest):
    """In another space an id is enough where no text is given; a chunk is then all of the stored text."""
    rows = good_rows(project)
    write_table(project, rows)
    run_ingest(project, "made")
    wide = vectors_of([r["text"] for r in rows], project, "wide").tolist()
    given = [{"sku": r["sku"], "where": "w", "v": v} for r, v in zip(rows, wide, strict=True)]
    report = bring(write_table(project, given, "wide.parquet"), text=None, uri="where", encoder="wide")
    assert (report.imported, report.rejected) == (6, 0)
    promote(project, "made", 2, yes=False, dry_run=False)
    assert [r["text"] for r in chunks_of(project)] == [r["text"] for r in rows]


# Exports


@pytest.fixture
def exported(project, run_ingest):
    """A collection of split texts with a stale item, exported; the folder."""
    for n in range(8):
        (project.root / f"docs/{n}.txt").write_text(
            " ".join(f"w{n}x{k}" for k in range(3 + 9 * n)) + "\r\nend\n"
        )
    run_ingest(project)
    (project.root / "docs/3.txt").write_bytes(b"\0\1\2")
    run_ingest(project)
    path = project.root / "out"
    export(project, ExportRequest("docs", "parquet", path))
    return path


def test_an_export_imported_into_another_lake_is_the_same(project, exported, bring):
    """Every row of every view, and every hit with its score: nothing is lost on the way."""
    report = bring(exported, "again", columns=False, encoder=None)
    assert report.rows == report.chunks == len(chunks_of(project, "docs"))
    assert chunks_of(project, "again") == chunks_of(project, "docs")
    assert items_of(project, "again") == items_of(project, "docs")
    assert any(r["stale_since"] for r in items_of(project, "again").values())
    with reader.open(project) as lake:
        for query in ("w3x1 w3x2", "end", "w7x60"):
            hits = [
                [(h.item_id, h.chunk_no, h.text, h.score) for h in lake.search(c, query, 8).hits]
                for c in ("docs", "again")
            ]
            assert hits[0] == hits[1]
    assert bring(exported, "again", columns=False, encoder=None).version == report.version
    there, here = head_of(project, "docs").live, head_of(project, "again").live
    own = {"strategy": there.strategy, "version": there.version, "canaries": there.canaries}
    assert here.model_copy(update=own) == there


def test_an_export_without_its_manifest_needs_an_encoder(project, exported, bring):
    """Items and chunks are still restored exactly, but whose vectors they are must be said."""
    (exported / "export.json").unlink()
    with pytest.raises(SourceUnusable, match="--encoder ENC"):
        bring(exported, "again", columns=False, encoder=None)
    report = bring(exported, "again", columns=False)
    assert chunks_of(project, "again") == chunks_of(project, "docs")
    assert any("mean cosine 1.0000" in note for note in report.notes)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"id": "item_id"}, SourceUnusable, "its columns are known"),
        ({"encoder": "other"}, EncoderChanged, "exported from space"),
        ({"space": "elsewhere"}, EncoderChanged, "exported from space"),
    ],
)
def test_an_export_is_what_it_says(project, exported, bring, given, error, said):
    """Options that contradict an export are refused, not believed."""
    with pytest.raises(error, match=said):
        bring(exported, "bare", columns=False, **{"encoder": None, **given})


def test_an_altered_export_is_found_out(project, exported, bring):
    """Rows in another order, or chunks of no item, are never paired wrongly."""
    part = next((exported / "items.parquet").iterdir())
    table = pq.read_table(part)
    pq.write_table(table.slice(1), part)
    with pytest.raises(UnreadableTable, match="have no item"):
        bring(exported, "again", columns=False, encoder=None)
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), part)
    with pytest.raises(UnreadableTable, match="not in the order"):
        bring(exported, "again", columns=False, encoder=None)


def test_exports_of_other_kinds_are_named(project, exported, bring):
    """A Delta export is not mistaken for a folder of vectors."""
    export(project, ExportRequest("docs", "delta", project.root / "delta"))
    with pytest.raises(SourceUnusable, match="export to delta; import reads those made with --to parquet"):
        bring(project.root / "delta", "again", columns=False, encoder=None)


def test_attributes_survive_the_way_through_an_export(project, bring):
    """Columns of the user's own come back with their types and hashes, so that nothing is refreshed later."""
    rows = [{**r, "tags": ["a", None], "day": None, "n": n} for n, r in enumerate(good_rows(project))]
    names = ("price", "tags", "n", "day")
    bring(write_table(project, rows, n=pa.uint8(), day=pa.date32()), attributes=names)
    export(project, ExportRequest("made", "parquet", project.root / "out"))
    bring(project.root / "out", "again", columns=False, encoder=None)
    assert chunks_of(project, "again") == chunks_of(project)
    both = [Snapshot.open(project.lake / c) for c in ("made", "again")]
    assert both[0].attributes() == both[1].attributes()
    hashes = [
        [t.sort_by("item_id").to_pylist() for _, _, t in s.read("items", ["item_id", "attributes_hash"])]
        for s in both
    ]
    assert hashes[0] == hashes[1]


# The export's own conditions


def test_an_export_never_overwrites_what_is_no_export(project, exported):
    """--yes replaces an earlier export; a folder of something else stays, whatever is said."""
    home = project.root / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("x")
    for yes in (False, True):
        with pytest.raises(Refused, match="no export"):
            export(project, ExportRequest("docs", "parquet", home, yes=yes))
    with pytest.raises(Refused, match="--yes"):
        export(project, ExportRequest("docs", "parquet", exported))
    before = (exported / "export.json").stat().st_ino
    assert export(project, ExportRequest("docs", "parquet", exported, yes=True)).items == 8
    assert (exported / "export.json").stat().st_ino != before
    assert [p.name for p in home.iterdir()] == ["thesis.txt"]


def test_an_export_says_what_it_cannot_do(project, exported):
    """Empty collections, folders inside the lake, and names that Lance would not find are refused."""
    with pytest.raises(NothingThere, match="evervec ingest made"):
        export(project, ExportRequest("made", "parquet", project.root / "x"))
    with pytest.raises(SourceUnusable, match="is in the lake"):
        export(project, ExportRequest("docs", "parquet", project.lake / "x"))
    with pytest.raises(SourceUnusable, match="ends in"):
        export(project, ExportRequest("docs", "lance", project.root / "x"))
    dry = export(project, ExportRequest("docs", "delta", project.root / "x", dry_run=True))
    assert (dry.items, dry.rows, dry.dry_run) == (8, len(chunks_of(project, "docs")), True)
    assert not (project.root / "x").exists()


def test_an_export_of_the_past(project, exported, run_ingest):
    """--as-of exports a version as it was."""
    (project.root / "docs/0.txt").unlink()
    run_ingest(project)
    assert export(project, ExportRequest("docs", "parquet", project.root / "x")).items == 7
    assert export(project, ExportRequest("docs", "parquet", project.root / "y", as_of=1)).items == 8


# Windows, kills, batches


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(import_windows, "WINDOW_CHUNKS", 4)
    monkeypatch.setattr(import_rows, "BATCH_ROWS", 3)


def test_a_table_goes_in_by_windows(project, bring, small_windows):
    """No step holds more than a batch or a window, and what comes out does not depend on their size."""
    rows = good_rows(project, 30)
    report = bring(write_table(project, rows), attributes=("price",))
    assert report.version == 8
    assert [(r["item_id"], r["price"]) for r in chunks_of(project)] == sorted(
        (r["sku"], r["price"]) for r in rows
    )


def test_an_item_is_never_cut_by_a_window(project, bring, small_windows):
    """All chunks of an item are committed together, even if they are more than a window."""
    rows = chunk_rows(project, [f"chunk {n}" for n in range(11)])
    more = [{**r, "sku": "b"} for r in rows[:2]]
    report = bring(write_table(project, [*rows, *more]), chunk="n")
    assert report.version == 2
    counts = sql(project, "SELECT item_id, count(*) AS n FROM made GROUP BY ALL ORDER BY ALL")
    assert counts == [{"item_id": "a", "n": 11}, {"item_id": "b", "n": 2}]


def test_an_import_that_broke_off_goes_on_with_the_same_command(project, bring, small_windows, monkeypatch):
    """Windows that were committed stay and are not written again; the rest follows."""
    rows = good_rows(project, 30)
    path = write_table(project, rows)
    real, calls = transaction.commit, []

    def failing(*arguments, **named):
        calls.append(1)
        if len(calls) == 4:
            raise CommitConflict("killed")
        return real(*arguments, **named)

    monkeypatch.setattr(transaction, "commit", failing)
    with pytest.raises(CommitConflict):
        bring(path)
    monkeypatch.setattr(transaction, "commit", real)
    assert head_of(project).number == 3
    report = bring(path)
    assert (report.unchanged, report.added, report.version) == (12, 18, 8)
    assert [r["item_id"] for r in chunks_of(project)] == sorted(r["sku"] for r in rows)
    assert not (project.lake / "made/_spool").exists()


KILLER = """
import os, signal
from pathlib import Path
from pydoc import locate
from flows.imports import ImportRequest, import_vectors
from flows.settings import load_project
from tasks import import_windows
from tasks.imports import Given
import_windows.WINDOW_CHUNKS = 4
owner_name, _, name = {target!r}.rpartition(".")
owner = locate(owner_name)
whole, calls = getattr(owner, name), [0]
def dying(*args, **options):
    calls[0] += 1
    if calls[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*args, **options)
setattr(owner, name, dying)
given = Given(Path({path!r}), "sku", "v", "text", encoder="enc")
import_vectors(load_project(Path({folder!r})), ImportRequest("made", given), lambda *_: None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["storage.transaction._masks", "storage.commits.Log.append"])
def test_a_killed_import_converges_when_it_is_run_again(project, bring, target):
    """kill -9 between Parquet and index, or before the record: the same command brings exactly the rest."""
    rows = good_rows(project, 30)
    path = write_table(project, rows)
    script = KILLER.format(target=target, path=str(path), folder=str(project.root))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert head_of(project).number == 2
    report = bring(path)
    assert (report.unchanged, report.added) == (8, 22)
    assert sorted(r["item_id"] for r in chunks_of(project)) == sorted(r["sku"] for r in rows)
    assert [i for i, _, _ in index_of(project)] == sorted(r["sku"] for r in rows)
    assert bring(path).version == report.version


def test_an_export_comes_back_by_windows(project, exported, bring, small_windows):
    """Items meet their chunks across every boundary of batches and windows."""
    report = bring(exported, "again", columns=False, encoder=None)
    assert report.version > 3
    assert chunks_of(project, "again") == chunks_of(project, "docs")
    assert items_of(project, "again") == items_of(project, "docs")


MEASURE = """
import resource, sys
from pathlib import Path
from flows.imports import ImportRequest, import_vectors
from flows.settings import load_project
from tasks.imports import Given
given = Given(Path(sys.argv[2]), "sku", "v", "text", space="s")
rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
done = import_vectors(load_project(Path(sys.argv[1])), ImportRequest("bare", given), lambda *_: None)
print(done.imported, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rest) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(project):
    """400 MB of vectors go in with less than 1.5 GB beside what is there at rest: a window, not the table."""
    count, dim, each = 200_000, 512, 20_000
    path = project.root / "large.parquet"
    random = np.random.default_rng(0)
    schema = pa.schema([("sku", pa.string()), ("text", pa.string()), ("v", pa.list_(pa.float32(), dim))])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for start in range(0, count, each):
            ids = [f"item-{n * 7919 % count}" for n in range(start, start + each)]
            flat = pa.array(random.standard_normal(each * dim, np.float32))
            values = pa.FixedSizeListArray.from_arrays(flat, dim)
            writer.write_table(pa.table([ids, [f"text of {i}" for i in ids], values], schema=schema))
    arguments = [sys.executable, "-c", MEASURE, str(project.root), str(path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    imported, megabytes = map(int, done.stdout.split())
    assert imported == count
    assert megabytes < 1_500


def test_what_an_encoder_says_of_itself_reaches_the_person(project, bring, make_project):
    """A model that is not there stops the import like any other command."""
    broken = make_project(YAML.replace("fake:32", "fake:x"))
    request = ImportRequest(
        "bare", Given(write_table(project, good_rows(project)), "sku", "v", "text", encoder="wide")
    )
    with pytest.raises(EncoderError, match="expected fake:DIM"):
        import_vectors(broken, request, lambda *_: None)

"""Columns, encoders, chunkings and formats change: refused, or a version of its own, and never mixed."""

import json
import logging
import os

import pyarrow as pa
import pytest

from encoders.catalog import describe
from encoders.files import HashCache
from encoders.spec import EncoderSpec
from storage import checkpoints, transaction
from storage.commits import Commit, Log, Release, sealed
from storage.errors import StorageError
from storage.snapshot import Snapshot
from storage.vectors import Index
from tasks import reader, steps
from tasks.errors import EncoderChanged

TABLE = """
    lake: ./lake
    encoders: {{enc: {{model: "fake:16"}}}}
    collections:
      goods:
        source: {{kind: table, path: goods.parquet, id: id, text: text, attributes: [{attributes}]}}
        encoder: enc
        max_deleted: 1.0
"""


class Goods:
    """A table that is ingested again and again with other columns."""

    def __init__(self, make_project, run_ingest):
        self._make, self._run = make_project, run_ingest
        self.version = 0

    def ingest(self, attributes, **options):
        """Ingest rows given as id → (text, values of `attributes`, Arrow columns by name)."""
        self.project = self._make(TABLE.format(attributes=", ".join(attributes)))
        return self._run(self.project, "goods", **options)

    def write(self, root, texts, **columns):
        table = pa.table({"id": list(texts), "text": list(texts.values()), **columns})
        pa.parquet.write_table(table, root / "goods.parquet")

    def sql(self, query, at=None):
        with reader.open(self.project) as lake:
            return lake.sql(query, at=at).to_pylist()

    def shown(self, columns, at=None):
        rows = self.sql(f"SELECT item_id, {columns} FROM goods ORDER BY item_id", at)
        return {r.pop("item_id"): tuple(r.values()) for r in rows}

    def indexed(self, *columns):
        head = Snapshot.open(self.project.lake / "goods").head
        table = Index(self.project.lake, head.index.table).open_at(head.index).table.to_arrow()
        assert len(table) == head.index.rows
        return {r["item_id"]: tuple(r[c] for c in columns) for r in table.to_pylist()}


@pytest.fixture
def goods(make_project, run_ingest):
    """Such a table, with an integer `price`, ingested once."""
    import pyarrow.parquet  # noqa: F401  of `pa`

    made = Goods(make_project, run_ingest)
    root = make_project(TABLE.format(attributes="price")).root
    made.root = root
    made.texts = {"a": "red bicycle", "b": "blue kettle", "c": "green lamp"}
    made.write(root, made.texts, price=pa.array([1, 2, 3], pa.int64()))
    assert made.ingest(["price"]).added == 3
    return made


CHANGES = {
    "new column": (["price", "size"], {"price": [1, 2, 3], "size": ["s", "m", "l"]}),
    "missing column": ([], {}),
    "renamed": (["cost"], {"cost": [1, 2, 3]}),
    "one more and one less": (["size"], {"size": ["s", "m", "l"]}),
    "another order": (["size", "price"], {"size": ["s", "m", "l"], "price": [1, 2, 3]}),
}


@pytest.mark.parametrize(
    "change", [pytest.param(c, marks=pytest.mark.slow if " and " in c else []) for c in CHANGES]
)
def test_changed_columns_are_updated_without_encoding(goods, tools, change):
    """Every row has the new columns in SQL and index; older versions keep theirs, maintained or not."""
    columns, values = CHANGES[change]
    goods.write(goods.root, goods.texts, **values)
    report = goods.ingest(columns)
    assert (report.updated, report.encoded, report.unchanged) == (3, 0, 0)
    stored = {k: pa.array(v).to_pylist() for k, v in values.items()}
    expected = {i: tuple(stored[c][row] for c in columns) for row, i in enumerate("abc")}

    def check():
        assert goods.shown(", ".join(["text", *columns])) == {
            i: (goods.texts[i], *expected[i]) for i in expected
        }
        assert goods.indexed(*columns) == expected
        head = Snapshot.open(goods.project.lake / "goods").head
        assert list(head.attributes) == columns

    check()
    assert goods.shown("price", at=1) == {"a": (1,), "b": (2,), "c": (3,)}
    tools.maintain(goods.project.lake, "goods", rebuild=True)
    check()
    assert goods.ingest(columns).unchanged == 3


RETYPED = {
    "as text": (["1", "2", "3"], {}),
    "as decimals": ([1.0, 2.0, 3.0], {}),
    "a decimal among them": ([1.0, 2.5, 3.0], {"b": "2.5"}),
    "a word among them": (["1", "two", "3"], {"b": "two"}),
}


@pytest.mark.parametrize("change", RETYPED)
def test_a_column_keeps_its_type(goods, change):
    """Values that are of it are read as such; a row with another is rejected, its last good row kept."""
    values, bad = RETYPED[change]
    goods.write(goods.root, goods.texts, price=values)
    report = goods.ingest(["price"])
    assert (report.unchanged, report.rejected, report.encoded) == (3 - len(bad), len(bad), 0)
    assert goods.shown("price") == {"a": (1,), "b": (2,), "c": (3,)}
    assert goods.indexed("price") == {"a": (1,), "b": (2,), "c": (3,)}
    assert {
        r["item_id"] for r in goods.sql("SELECT item_id FROM goods_items WHERE stale_since IS NOT NULL")
    } == (set(bad))
    assert all(
        bad[r["item_id"]] in r["reason"] for r in goods.sql("SELECT item_id, reason FROM goods_rejects")
    )


def test_a_column_that_was_away_may_come_back_as_another_type(goods, tools):
    """Nothing of its first life is left in rows or index."""
    goods.write(goods.root, goods.texts)
    goods.ingest([])
    goods.write(goods.root, goods.texts, price=["x", "y", "z"])
    goods.ingest(["price"])
    tools.maintain(goods.project.lake, "goods", rebuild=True)
    assert goods.shown("price") == goods.indexed("price") == {"a": ("x",), "b": ("y",), "c": ("z",)}


def test_rows_without_a_new_column_survive_maintenance(goods, tools):
    """Rows that a limited run has not reached yet have null there, in SQL and index, compacted or not."""
    goods.write(goods.root, goods.texts, size=["s", "m", "l"], price=[1, 2, 3])
    goods.ingest(["price", "size"], limit=1)
    expected = {"a": (1, "s"), "b": (2, None), "c": (3, None)}
    assert goods.shown("price, size") == goods.indexed("price", "size") == expected
    tools.maintain(goods.project.lake, "goods")
    assert goods.shown("price, size") == expected
    tools.maintain(goods.project.lake, "goods", rebuild=True)
    assert goods.shown("price, size") == goods.indexed("price", "size") == expected
    goods.ingest(["price", "size"])
    expected = {"a": (1, "s"), "b": (2, "m"), "c": (3, "l")}
    assert goods.shown("price, size") == goods.indexed("price", "size") == expected
    tools.maintain(goods.project.lake, "goods", rebuild=True)
    assert goods.shown("price, size") == goods.indexed("price", "size") == expected


@pytest.mark.parametrize(
    "maintained",
    [
        pytest.param(False, id="compacted"),
        pytest.param(True, id="with a new index"),
    ],
)
def test_columns_may_change_again_and_again(goods, tools, maintained):
    """After five changes, some rows touched by few of them, rows and index are those of the last."""
    goods.write(goods.root, goods.texts, size=["s", "m", "l"], price=[1, 2, 3])
    goods.ingest(["price", "size"], limit=1)
    goods.ingest(["size", "price"], limit=2)
    tools.maintain(goods.project.lake, "goods", rebuild=maintained)
    goods.write(goods.root, {**goods.texts, "b": "blue pot"}, size=["s", "m", "x"], weight=[1.5, 2.5, 3.5])
    goods.ingest(["size"], limit=2)
    goods.ingest(["weight", "size"], limit=1)
    goods.ingest(["size", "weight"])
    assert goods.shown("text, size, weight") == {
        "a": ("red bicycle", "s", 1.5),
        "b": ("blue pot", "m", 2.5),
        "c": ("green lamp", "x", 3.5),
    }
    expected = {"a": ("s", 1.5), "b": ("m", 2.5), "c": ("x", 3.5)}
    assert goods.indexed("size", "weight") == expected
    tools.maintain(goods.project.lake, "goods", rebuild=True)
    assert goods.shown("size, weight") == goods.indexed("size", "weight") == expected
    assert goods.ingest(["size", "weight"]).unchanged == 3


def test_files_whose_columns_are_in_another_order_are_joined(goods, tools):
    """Compaction joins files that have the same columns, whatever their order."""
    for turn, columns in enumerate((["price", "size"], ["size", "price"], ["price", "size"])):
        goods.write(goods.root, goods.texts, size=["s", "m", "l"], price=[turn, 2, 3])
        goods.ingest(columns, limit=3 - turn)
    done = tools.maintain(goods.project.lake, "goods", rebuild=True)
    assert done.rewritten > 0
    goods.ingest(["price", "size"])
    assert goods.shown("price, size") == {"a": (2, "s"), "b": (2, "m"), "c": (3, "l")}
    assert goods.indexed("price", "size") == {"a": (2, "s"), "b": (2, "m"), "c": (3, "l")}


def test_an_item_that_cannot_be_read_any_more_keeps_its_columns(goods):
    """Items whose newest content is rejected are marked, whichever columns their rows were written with."""
    goods.write(goods.root, goods.texts, size=["s", "m", "l"], price=[1, 2, 3])
    goods.ingest(["price", "size"], limit=1)
    goods.write(goods.root, {**goods.texts, "a": "", "c": ""}, size=["s", "m", "l"], price=[1, 2, 3])
    report = goods.ingest(["price", "size"])
    assert report.rejected == 2
    rows = goods.sql("SELECT item_id, text, price, stale_since FROM goods_items ORDER BY item_id")
    assert [(r["item_id"], r["text"], r["price"], r["stale_since"] is not None) for r in rows] == [
        ("a", "red bicycle", 1, True),
        ("b", "blue kettle", 2, False),
        ("c", "green lamp", 3, True),
    ]


DOCS = """
    lake: ./lake
    encoders: {{enc: {encoder}}}
    collections:
      docs: {{source: {{kind: files, path: docs}}, encoder: enc, max_deleted: 1.0, chunk: {chunk}}}
"""


def files_of(project):
    found = [p for p in project.lake.rglob("*") if p.is_file() and "_locks" not in p.parts]
    return {p: p.stat().st_mtime_ns for p in found}


@pytest.fixture
def docs(make_project, run_ingest):
    """A function that writes a text and ingests it by an encoder and a chunking, under one name."""

    def ingest(
        encoder='{model: "fake:16"}', chunk="{max_tokens: 8, overlap: 2}", text="one two three", **options
    ):
        made = make_project(DOCS.format(encoder=encoder, chunk=chunk))
        (made.root / "docs/a.txt").write_text(text)
        return made, lambda: run_ingest(made, **options)

    return ingest


OTHER = {
    "other dims": '{model: "fake:24"}',
    "other weights": '{model: "fake:16", document_prompt: "passage: "}',
    "other query": '{model: "fake:16", query_prompt: "query: "}',
    "cut dims": '{model: "fake:24", truncate_dim: 16}',
}


@pytest.mark.parametrize("other", OTHER)
@pytest.mark.parametrize("changed", [False, True], ids=["same text", "new text"])
def test_another_encoder_under_the_same_name_is_refused(docs, other, changed):
    """Even of the same length: nothing is encoded, no byte changes, and the earlier encoder goes on."""
    project, run = docs()
    run()
    before = files_of(project)
    project, run = docs(OTHER[other], text="changed" if changed else "one two three")
    with pytest.raises(EncoderChanged, match="Vectors of two spaces must not be mixed") as caught:
        run()
    assert caught.value.exit_code == 2
    assert files_of(project) == before
    with reader.open(project) as lake:
        assert lake.search("docs", "one two three").hits[0].score == pytest.approx(1.0, abs=1e-5), (
            "queries are of the release's encoder, whatever the configuration says"
        )
    project, run = docs(text="changed")
    assert run().updated == 1


@pytest.mark.parametrize("chunk", ["{max_tokens: 9, overlap: 2}", "{max_tokens: 8, overlap: 1}", "{}"])
def test_another_chunking_is_refused(docs, chunk):
    """Spans of two chunkings are not mixed: nothing is cut anew, no byte changes."""
    project, run = docs()
    run()
    before = files_of(project)
    project, run = docs(chunk=chunk, text="changed")
    with pytest.raises(EncoderChanged, match="was chunked with") as caught:
        run()
    assert caught.value.exit_code == 2
    assert files_of(project) == before


@pytest.fixture
def model(tmp_path):
    """The folder of a model as far as a fingerprint reads it."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    return folder


def flipped(model):
    path = model / "model.safetensors"
    path.write_bytes(bytes(255 - b for b in path.read_bytes()))
    os.utime(path, (1, 1))


@pytest.fixture
def modelled(docs, model, toy):
    """A project whose lake was written by that model."""
    project, _ = docs(f'{{model: "{model}"}}', chunk="{max_tokens: 16, overlap: 2}")
    spec = project.encoders["enc"]
    facts = describe(spec, HashCache(None))
    release = Release(
        release=1,
        space_id=facts.space_id,
        dim=facts.dim,
        fingerprint=facts.fingerprint,
        strategy="native",
        encoder=spec.model_dump(mode="json"),
        chunking={},
        chunking_id="c",
    )
    items = {"a.txt": toy.Item("one")}
    window = toy.window(
        items,
        release=release,
        vectors={release.space_id: toy.vectors_table(items, release.dim)},
        index={release.space_id: toy.index_table(items, dim=release.dim)},
    )
    transaction.commit(project.lake, "docs", window)
    return project


def test_the_same_model_with_other_weights_is_another_space(model):
    """One altered byte is another fingerprint and another space, under the same name."""
    spec = EncoderSpec(model=str(model))
    before = describe(spec, HashCache(None))
    assert describe(spec, HashCache(None)) == before
    flipped(model)
    after = describe(spec, HashCache(None))
    assert after.dim == before.dim
    assert after.fingerprint != before.fingerprint
    assert after.space_id != before.space_id


def test_a_model_whose_files_changed_writes_nothing(modelled, model):
    """An ingest by the same name is refused before anything is pulled."""
    flipped(model)
    before = files_of(modelled)
    with pytest.raises(EncoderChanged, match="must not be mixed"):
        steps.check(modelled, "docs")
    assert files_of(modelled) == before


def test_a_model_whose_files_changed_answers_no_query(modelled, model):
    """Its queries would be compared with vectors of another space."""
    flipped(model)
    with reader.open(modelled) as lake, pytest.raises(EncoderChanged, match="vectors of another space"):
        lake.search("docs", "one")


def later(record):
    """The record as a later program would have written it."""
    return record.model_copy(update={"format": 99})


@pytest.mark.parametrize("which", ["newest", "not the newest"])
def test_a_record_of_a_later_format_is_refused_by_readers_and_writers(toy, lake, commit, which):
    """Who does not know a format must not guess, nor serve what was before: update Evervec."""
    commit(toy.window({"a": toy.Item("one")}))
    known = Snapshot.open(lake / "docs")
    record = commit(toy.window({"b": toy.Item("two")}))
    log = Log(lake / "docs")
    for path in (log.path(2), log.copy(2)):
        path.write_bytes(sealed(later(record)))
    if which == "not the newest":
        third = record.model_copy(update={"number": 3, "parent": 2, "items": (), "vectors": {}})
        log.append(later(third))
    before = {p: p.read_bytes() for p in lake.rglob("*") if p.is_file() and "_locks" not in p.parts}
    for attempt in (
        lambda: Snapshot.open(lake / "docs"),
        lambda: Snapshot.open(lake / "docs", at=2),
        lambda: Snapshot.open(lake / "docs", strict=True),
        lambda: known.advanced(),
        lambda: commit(toy.window({"c": toy.Item("three")})),
        lambda: transaction.commit(lake, "docs", toy.window({"c": toy.Item("three")}), known=known),
    ):
        with pytest.raises(
            StorageError, match=r"is of format 99, this program reads up to \d+; update Evervec"
        ):
            attempt()
    after = {p: p.read_bytes() for p in lake.rglob("*") if p.is_file() and "_locks" not in p.parts}
    assert after == before


def test_a_checkpoint_of_a_later_format_is_not_used(toy, lake, commit, monkeypatch, caplog):
    """What a later program folded is not taken for what this one knows."""
    record = commit(toy.window({"a": toy.Item("one")}))
    snapshot = Snapshot.open(lake / "docs")
    read = Commit.model_validate(later(record).model_dump())
    state = snapshot.state.copy()
    state.head = read
    checkpoints.save(lake / "docs", state, {}, snapshot.history())
    with caplog.at_level(logging.WARNING):
        opened = Snapshot.open(lake / "docs")
    assert opened.base is None, "the log itself was read"
    assert opened.head.format == record.format

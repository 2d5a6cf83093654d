"""Two releases of one collection: `live` moves in one step, and both spaces hold every item."""

import json
import threading

import numpy as np
import pytest

from encoders.catalog import describe, open_encoder
from flows.complete import complete as run_complete
from storage import maintenance, transaction
from storage.commits import Release
from storage.errors import CommitConflict, NoSuchRelease
from storage.locks import lock
from storage.releases import make_live
from storage.retention import Retention
from storage.snapshot import Snapshot
from storage.vectors import Index
from tasks import filling, reader, releases, steps
from tasks.errors import EncoderChanged, Refused
from tasks.reader import Pinned

YAML = """
    lake: ./lake
    encoders:
      small: {{model: "fake:16"}}
      large: {{model: "fake:24"}}
      third: {{model: "fake:32"}}
    collections:
      docs: {{source: {{kind: files, path: docs}}, encoder: {encoder}, max_deleted: 1.0,
              chunk: {{max_tokens: 8, overlap: 2}}, retain: {{releases: 1, days: 14}}}}
      goods:
        source: {{kind: table, path: goods.jsonl, id: id, text: text, attributes: [price]}}
        encoder: {encoder}
        max_deleted: 1.0
"""
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def quiet(*_):
    """No progress."""


def write(project, **texts):
    for name, text in texts.items():
        (project.root / f"docs/{name}.txt").write_text(text)


def head_of(project, collection="docs"):
    return Snapshot.open(project.lake / collection).head


def second_release(project, encoder="large", *, number=2, collection="docs"):
    """Add a release without vectors yet, as an upgrade begins."""
    spec = project.encoders[encoder]
    facts = describe(spec, project.hashes())
    head = head_of(project, collection)
    release = Release(
        release=number,
        space_id=facts.space_id,
        dim=facts.dim,
        fingerprint=facts.fingerprint,
        strategy="native",
        encoder=spec.model_dump(mode="json"),
        chunking=head.live.chunking,
        chunking_id=head.live.chunking_id,
    )
    snapshot = Snapshot.open(project.lake / collection)
    types = {f.name: f.type for f in snapshot.attributes()}
    import pyarrow as pa

    window = transaction.Window(
        verb="upgrade",
        run_id="run",
        started_at=head.started_at,
        release=release,
        attributes=pa.struct([(name, types[name]) for name in head.attributes]),
    )
    transaction.commit(project.lake, collection, window)
    return release


def rows_of(project, space, collection="docs"):
    """(item, chunk) of a space: in Parquet with their spans, and in the index with their texts."""
    snapshot = Snapshot.open(project.lake / collection)
    columns = ["item_id", "chunk_no", "chunk_start", "chunk_end", "vector"]
    stored = {
        (r["item_id"], r["chunk_no"]): (r["chunk_start"], r["chunk_end"], r["vector"])
        for _, _, table in snapshot.read("vectors", columns, space)
        for r in table.to_pylist()
    }
    named = snapshot.head.indexes[space]
    table = Index(project.lake, named.table).open_at(named).table.to_arrow().to_pylist()
    indexed = {(r["item_id"], r["chunk_no"]): r["text"] for r in table}
    assert len(table) == len(indexed) == len(stored) == snapshot.head.spaces[space].rows
    return stored, indexed


def assert_filled(project, encoder):
    """Every text of the folder is in the space of an encoder, in its own vectors, and nothing else."""
    spec = project.encoders[encoder]
    facts = describe(spec, project.hashes())
    stored, indexed = rows_of(project, facts.space_id)
    texts = {p.name: p.read_text() for p in (project.root / "docs").iterdir()}
    assert {i for i, _ in stored} == set(texts)
    chunks = {key: texts[key[0]][a:b] for key, (a, b, _) in stored.items()}
    assert indexed == chunks
    expected = open_encoder(spec, facts).encode(list(chunks.values()))
    assert np.allclose([v for _, _, v in stored.values()], expected, atol=1e-6)


def spans(project, encoder):
    space = describe(project.encoders[encoder], project.hashes()).space_id
    return {key: (a, b) for key, (a, b, _) in rows_of(project, space)[0].items()}


@pytest.fixture
def project(make_project, run_ingest):
    """Three texts under release 1 (`small`), and a second release (`large`) without vectors."""
    made = make_project(YAML.format(encoder="small"))
    write(made, a="alpha", b=LONG, c="gamma")
    run_ingest(made)
    second_release(made)
    return made


def states(project):
    return {p: p.stat().st_mtime_ns for p in project.lake.rglob("*") if p.is_file()}


def test_a_release_that_lacks_vectors_is_not_made_live(project):
    """It is refused with the number of items that would not be found, and no byte changes."""
    before = states(project)
    with pytest.raises(Refused, match="3 items of collection 'docs' have no vector") as caught:
        releases.promote(project, "docs", 2, yes=False, dry_run=False)
    assert caught.value.exit_code == 3
    with pytest.raises(NoSuchRelease, match="release 3 of collection 'docs' does not exist; there are: 1, 2"):
        releases.promote(project, "docs", 3, yes=True, dry_run=False)
    with pytest.raises(NoSuchRelease, match="no earlier release"):
        releases.rollback(project, "docs", yes=True, dry_run=False)
    told = releases.promote(project, "docs", 2, yes=True, dry_run=True)
    assert (told.live, told.previous) == (2, 1)
    assert states(project) == before


def test_live_moves_with_its_index_and_query_space_and_back(project):
    """After promote a search is in the other space, by its encoder; after rollback as before, at the head."""
    run_complete(project, "docs", 2, quiet)
    assert_filled(project, "large")
    with reader.open(project) as lake:
        for verb, number, dim in ((releases.promote, 2, 24), (releases.rollback, 1, 16)):
            given = [2] if verb is releases.promote else []
            moved = verb(project, "docs", *given, yes=False, dry_run=False)
            assert (moved.live, moved.previous) == (number, 3 - number)
            head = head_of(project)
            assert (head.number, head.live_release, head.live.version) == (moved.version,) * 1 + (
                number,
                moved.version,
            )
            found = lake.search("docs", "gamma", 1)
            assert (found.release, found.version) == (number, moved.version)
            assert found.space_id == head.live.space_id == f"fake_{dim}_{head.live.fingerprint[:8]}"
            assert found.hits[0].item_id == "c.txt"
            assert found.hits[0].score == pytest.approx(1.0, abs=1e-5), "the query is of the same encoder"
            [row] = lake.sql(
                "SELECT space_id, len(vector) AS n FROM docs WHERE item_id = 'a.txt'"
            ).to_pylist()
            assert row == {"space_id": found.space_id, "n": dim}
            frozen = lake.search("docs", "gamma", 1, release=Pinned(3 - number))
            assert frozen.release == 3 - number
            assert frozen.hits[0].score == pytest.approx(1.0, abs=1e-5)
    again = releases.promote(project, "docs", 1, yes=False, dry_run=False)
    assert (again.live, again.previous, again.version) == (1, 1, head_of(project).number), "no new version"


def test_readers_never_see_half_a_switch(project):
    """While `live` is moved to and fro, each search has release, space, index and query of one version."""
    run_complete(project, "docs", 2, quiet)
    spaces = {r.release: r.space_id for r in head_of(project).releases}
    stop, seen, failed = threading.Event(), [], []

    def search():
        try:
            with reader.open(project) as lake:
                while not stop.is_set():
                    found = lake.search("docs", "gamma", 1)
                    row = lake.sql("SELECT DISTINCT space_id FROM docs").to_pylist()
                    seen.append((found, row))
        except Exception as error:  # noqa: BLE001  whatever it is, it must not be there
            failed.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    live = {}
    for turn in range(12):
        moved = make_live(project.lake / "docs", 2 - turn % 2, "promote", "run")
        live[moved.version] = moved.live
    while len({f.release for f, _ in seen}) < 2 and not failed and thread.is_alive() and len(seen) < 500:
        make_live(project.lake / "docs", 2 if head_of(project).live_release == 1 else 1, "promote", "run")
    stop.set()
    thread.join()
    assert failed == []
    for found, row in seen:
        assert found.space_id == spaces[found.release]
        assert live.get(found.version, found.release) == found.release
        assert found.hits[0].item_id == "c.txt"
        assert found.hits[0].score == pytest.approx(1.0, abs=1e-5)
        assert row[0]["space_id"] in spaces.values()
        assert len(row) == 1


def test_complete_keeps_the_stored_spans(project):
    """A chunk number means one text in both spaces, though the second encoder would cut otherwise."""
    run_complete(project, "docs", 2, quiet)
    assert spans(project, "large") == spans(project, "small")
    assert len(spans(project, "large")) > 3, "the long text has several chunks"
    version = head_of(project).number
    assert run_complete(project, "docs", 2, quiet).version == version, "nothing is left to do"


def test_an_ingest_fills_the_live_and_the_retained_release(project, run_ingest, make_project):
    """New, edited and deleted items are so in both spaces, whichever is live, and spans stay one."""
    run_complete(project, "docs", 2, quiet)
    for turn, promoted in enumerate((2, 1)):
        releases.promote(project, "docs", promoted, yes=False, dry_run=False)
        write(project, **{f"new{turn}": f"{LONG} {turn}", "a": f"edited {turn}"})
        (project.root / f"docs/{'cbx'[turn]}.txt").unlink(missing_ok=True)
        report = run_ingest(project)
        head = head_of(project)
        assert report.space_id == head.live.space_id
        assert report.version == head.number
        assert (report.added, report.updated, report.encoded) == (1, 1, 2), "counts of the live release"
        said = " ".join(report.notes)
        assert ("not by 'small' of evervec.yaml" in said) == (promoted == 2)
        assert f"2 items encoded for release {3 - promoted}" in said
        for encoder in ("small", "large"):
            assert_filled(project, encoder)
        assert spans(project, "small") == spans(project, "large")
    version = head_of(project).number
    assert run_ingest(project).version == version, "and then there is nothing to do"


def test_a_configuration_may_name_any_release_that_is_kept_and_no_other(project, run_ingest, make_project):
    """With the encoder of the retained release the live one's is used; a third encoder is refused."""
    other = make_project(YAML.format(encoder="large"))
    write(other, d="delta")
    assert run_ingest(other).space_id == head_of(project).releases[0].space_id
    third = make_project(YAML.format(encoder="third"))
    before = states(project)
    write(third, e="epsilon")
    with pytest.raises(EncoderChanged, match=r"holds vectors of fake_16_.*now writes into fake_32_"):
        run_ingest(third)
    assert {p for p in states(project) if "_locks" not in p.parts} == {
        p for p in before if "_locks" not in p.parts
    }


def test_an_item_that_changes_while_it_is_completed_is_not_given_old_vectors(
    project, run_ingest, monkeypatch
):
    """The window is a conflict; the same command then encodes what is there."""
    encode = filling.encode_stream

    def slow(*given):
        yield from encode(*given)
        write(project, c="changed meanwhile")
        plain = transaction.commit
        monkeypatch.undo()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(steps, "fill_retained", lambda *_: steps.Filled(0))
            patched.setattr(steps, "lock", unlocked)
            run_ingest(project)
        assert transaction.commit is plain

    monkeypatch.setattr(filling, "encode_stream", slow)
    with pytest.raises(CommitConflict, match=r"item 'c.txt' .* was changed while vectors were made"):
        run_complete(project, "docs", 2, quiet)
    run_complete(project, "docs", 2, quiet)
    assert_filled(project, "large")
    assert_filled(project, "small")


def unlocked(*_, **__):
    """A lease for an ingest that a test runs inside another job."""
    import contextlib

    return contextlib.nullcontext(steps._NoLease())


def test_items_that_land_while_another_release_is_made_live_are_in_both_spaces(
    project, run_ingest, monkeypatch
):
    """An ingest that began under one release ends under the other, and leaves no item without a vector."""
    run_complete(project, "docs", 2, quiet)
    write(project, d="delta", a="edited")
    whole = steps.encode_and_commit

    def switched(*given):
        make_live(project.lake / "docs", 2, "promote", "run")
        return whole(*given)

    monkeypatch.setattr(steps, "encode_and_commit", switched)
    run_ingest(project)
    monkeypatch.undo()
    run_ingest(project)
    for encoder in ("small", "large"):
        assert_filled(project, encoder)


def test_an_ingest_fills_a_live_release_that_was_promoted_without_its_vectors(project, run_ingest):
    """What `promote --yes` left out is encoded by the next ingest, not left out of searches for ever."""
    releases.promote(project, "docs", 2, yes=True, dry_run=False)
    write(project, d="delta")
    run_ingest(project)
    for encoder in ("small", "large"):
        assert_filled(project, encoder)


def goods(project, prices):
    lines = [json.dumps({"id": i, "text": f"text of {i}", "price": p}) for i, p in prices.items()]
    (project.root / "goods.jsonl").write_text("\n".join(lines) + "\n")


def prices_of(project, space):
    named = head_of(project, "goods").indexes[space]
    table = Index(project.lake, named.table).open_at(named).table.to_arrow().to_pylist()
    assert len(table) == len({r["item_id"] for r in table}), "each once"
    return {r["item_id"]: r["price"] for r in table}


def retire(project, collection, number):
    """Retire a release as maintenance does; it must have been live once and not be so now."""
    root = project.lake / collection
    make_live(root, number, "promote", "run")
    make_live(root, 1, "rollback", "run")
    with lock(root, "maintain") as lease:
        snapshot, keep = Snapshot.open(root), Retention(14, 0)
        work = maintenance.plan(project.lake, snapshot, keep, rebuild=False)
        maintenance.carry_out(project.lake, snapshot, work, keep, "run", lease)
    assert head_of(project, collection).release(number).retired


@pytest.fixture
def twice(make_project, run_ingest):
    """A table whose second release was retired; its space came back under release 3."""
    made = make_project(YAML.format(encoder="small"))
    goods(made, {"a": 1, "b": 2})
    run_ingest(made, "goods")
    second_release(made, collection="goods")
    run_complete(made, "goods", 2, quiet)
    retire(made, "goods", 2)
    with pytest.raises(NoSuchRelease, match="release 2 of collection 'goods' was retired"):
        releases.promote(made, "goods", 2, yes=True, dry_run=False)
    second_release(made, collection="goods", number=3)
    run_complete(made, "goods", 3, quiet)
    for number in (3, 1):  # one that was never live would be left as it is
        releases.promote(made, "goods", number, yes=False, dry_run=False)
    return made


def test_a_release_that_was_never_live_is_left_as_it_is(project, run_ingest):
    """A trial import makes no ingest encode the whole collection for it."""
    write(project, d="delta")
    before = spans(project, "large")
    run_ingest(project)
    assert spans(project, "large") == before
    assert_filled(project, "small")


def test_new_attributes_reach_a_space_that_came_back(twice, run_ingest):
    """A space of a retired and of a kept release has each row once, with the newest attributes."""
    goods(twice, {"a": 7, "b": 2, "c": 3})
    report = run_ingest(twice, "goods")
    assert (report.added, report.updated, report.encoded) == (1, 1, 1)
    for space in head_of(twice, "goods").spaces:
        assert prices_of(twice, space) == {"a": 7, "b": 2, "c": 3}


def test_attributes_are_refreshed_in_every_space(make_project, run_ingest):
    """Rows of which only attributes changed show the new ones under both releases; nothing is encoded."""
    made = make_project(YAML.format(encoder="small"))
    goods(made, {"a": 1, "b": 2})
    run_ingest(made, "goods")
    second_release(made, collection="goods")
    run_complete(made, "goods", 2, quiet)
    goods(made, {"a": 9, "b": 2})
    assert run_ingest(made, "goods").encoded == 0
    for space in head_of(made, "goods").spaces:
        assert prices_of(made, space) == {"a": 9, "b": 2}

"""A cascade: what a recall finds is ranked by native vectors, which are made once, and by nothing else."""

import logging

import numpy as np
import pytest
from PIL import Image

from encoders.basis.files import from_bytes
from flows.settings import load_project
from storage import bases, kept
from tasks import reader
from tasks.paths import space_of
from tasks.questions import MediaQuery
from tasks.reader import Pinned
from tasks.releases import rollback
from tests.tasks import drifted
from tests.tasks.drifted import build, encoded, fill, held, opened

DEPTH = 20
QUERIES = [row["text"] for row in drifted.texts(6, seed=50)]


@pytest.fixture(params=["map", "bridge"])
def cascading(request, carried, copied):
    """A collection whose live release ranks by a cascade of 20, in either way."""
    return watched(copied(carried(request.param)))


@pytest.fixture
def mapped(carried, copied):
    return watched(copied(carried("map")))


def watched(project):
    seen().clear()
    return project


def seen():
    """What the new encoder was given."""
    from drifting import Watched

    return Watched.seen


def cosines(query, vectors):
    vectors = np.asarray(vectors, np.float64)
    return vectors @ query / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(query))


def nearest(query, rows, depth=DEPTH):
    """Keys of the rows with the highest cosines."""
    keys = list(rows)
    scores = cosines(query, [rows[key]["vector"] for key in keys])
    return [keys[at] for at in np.argsort(-scores, kind="stable")[:depth]]


def candidates(project, query):
    """What the recall of the live release finds, worked out by hand."""
    head = opened(project).head
    live, native = head.live, encoded("New", [query])[0]
    rows = held(project, live.space_id)
    if live.strategy == "map":
        return nearest(native, rows)
    basis = from_bytes(bases.read(opened(project).root, live.basis))
    by = head.release(live.through)
    recall = basis.apply(native[None], space=space_of(by), direction="queries")[0]
    return [*nearest(recall, rows), *nearest(native, held(project, by.space_id))]


def texts_of(project, keys):
    """The texts of chunks, from where they lie in the first release's space."""
    first = held(project, opened(project).head.releases[0].space_id)
    items = {}
    for _, _, table in opened(project).read("items", ["item_id", "text"]):
        items |= dict(zip(*(c.to_pylist() for c in table.columns), strict=True))
    return {key: items[key[0]][first[key]["chunk_start"] : first[key]["chunk_end"]] for key in keys}


def ranked(project, query, keys):
    """Items by the native cosine of their best candidate: (item, chunk, cosine)."""
    texts = texts_of(project, dict.fromkeys(keys))
    scores = cosines(encoded("New", [query])[0], encoded("New", list(texts.values())))
    best = {}
    for (item_id, number), score in sorted(zip(texts, scores, strict=True), key=lambda hit: -hit[1]):
        best.setdefault(item_id, (item_id, number, score))
    return list(best.values())


def found(project, query, k=6, **how):
    with reader.open(project) as lake:
        return lake.search("docs", query, k, **how).hits


def require_ranked(hits, expected):
    assert [(h.item_id, h.chunk_no) for h in hits] == [(i, n) for i, n, _ in expected[: len(hits)]]
    assert [h.score for h in hits] == pytest.approx([score for *_, score in expected[: len(hits)]], abs=1e-5)


def test_candidates_are_ranked_by_their_native_vectors(cascading):
    """Exactly as if all had been encoded before; no score is of another space, or of a map."""
    for query in QUERIES:
        expected = ranked(cascading, query, candidates(cascading, query))
        hits = found(cascading, query)
        assert len(hits) == 6
        require_ranked(hits, expected)
        assert {h.origin for h in hits} == {"encoded"}


def test_a_candidate_is_encoded_once(cascading):
    """Not if it is native already; not by a second search, another process, or once it is folded in."""
    query = QUERIES[0]
    keys = set(candidates(cascading, query))
    by = opened(cascading).head.live.through or opened(cascading).head.live.release
    space = opened(cascading).head.release(by).space_id
    native = {key for key, row in held(cascading, space).items() if row["origin"] == "encoded"}
    with reader.open(cascading) as lake:
        first = lake.search("docs", query, 6).hits
        assert sorted(seen()) == sorted([query, *texts_of(cascading, keys - native).values()])
        seen().clear()
        assert lake.search("docs", query, 6).hits == first
        assert seen() == [query]
    assert found(cascading, query) == first
    fill(cascading, rows=0)
    require_ranked(found(cascading, query), ranked(cascading, query, candidates(cascading, query)))
    assert not set(seen()) & set(texts_of(cascading, keys).values())


def test_what_another_process_keeps_is_found_at_once(cascading):
    """A reader that is open for long looks into the spool at every search."""
    with reader.open(cascading) as lake:
        lake.search("docs", QUERIES[0], 6)
        found(cascading, QUERIES[1])
        seen().clear()
        lake.search("docs", QUERIES[1], 6)
    assert seen() == [QUERIES[1]]


def test_searches_keep_only_what_they_may(mapped):
    """With `keep_vectors: false` nothing; notes are of ids alone, and only where they are asked for."""
    root = mapped.lake / "docs"
    found(mapped, QUERIES[0])
    counts, _ = kept.noted(root)
    assert counts == {item_id: 1 for item_id, _ in candidates(mapped, QUERIES[0])}
    settings = "searches: {keep_vectors: false}"
    yaml = drifted.YAML.replace("searches: {note_candidates: true}", settings)
    (mapped.root / "evervec.yaml").write_text(yaml)
    shy = load_project(mapped.root)
    before = kept.files(root, opened(shy).head.live.space_id)
    for _ in range(2):
        seen().clear()
        found(shy, QUERIES[1])
        assert len(seen()) > 1
    assert kept.files(root, opened(shy).head.live.space_id) == before
    assert kept.noted(root)[0] == counts


def test_a_lake_that_cannot_be_written_to_answers_all_the_same(cascading, caplog):
    """It is said once, not at every search."""
    expected = [ranked(cascading, query, candidates(cascading, query)) for query in QUERIES[:3]]
    for folder in ("_kept", "_asked"):
        (cascading.lake / "docs" / folder).mkdir(exist_ok=True)
        (cascading.lake / "docs" / folder).rename(cascading.root / folder)
        (cascading.lake / "docs" / folder).write_text("in the way")
    with caplog.at_level(logging.WARNING), reader.open(cascading) as lake:
        for query, ranking in zip(QUERIES, expected, strict=False):
            require_ranked(lake.search("docs", query, 6).hits, ranking)
    assert caplog.text.count("searches keep nothing: the lake cannot be written to") == 1


@pytest.mark.parametrize("strategy", ["map", "bridge"])
def test_a_candidate_that_cannot_be_encoded(docs, run_ingest, strategy):
    """A mapped row keeps its score, which is of the same space; a row of an old space leaves the ranking."""
    rows = drifted.texts(120)
    query = rows[7]["text"]
    rows[7]["text"] = f"poisoned {query}"
    drifted.write(docs.root, rows)
    run_ingest(docs)
    release = build(docs, strategy, to="watched", cascade=DEPTH, sample=20)
    keys = candidates(docs, query)
    assert ("i007", 0) in keys
    expected = ranked(docs, query, [key for key in keys if key != ("i007", 0)])
    hits = found(docs, query)
    require_ranked([h for h in hits if h.item_id != "i007"], expected)
    left = [(h.origin, h.score) for h in hits if h.item_id == "i007"]
    if strategy == "bridge":
        assert left == []
    else:
        vector = held(docs, release.space_id)["i007", 0]["vector"]
        score = cosines(encoded("New", [query])[0], [vector])[0]
        assert left == [("mapped", pytest.approx(score, abs=1e-5))]


def test_maps_in_the_native_space_are_not_taken_for_native(mapped):
    """A bridge may lead through a release whose rows are maps: they are candidates, and then encoded."""
    build(mapped, "bridge", to="watched", cascade=DEPTH)
    assert opened(mapped).head.live.through == 2
    seen().clear()
    query = QUERIES[2]
    keys = candidates(mapped, query)
    require_ranked(found(mapped, query), ranked(mapped, query, keys))
    maps = {key for key, row in held(mapped, opened(mapped).head.release(2).space_id).items()
            if row["origin"] == "mapped"}  # fmt: skip
    assert maps & set(keys)
    assert set(texts_of(mapped, maps & set(keys)).values()) <= set(seen())


def test_a_reader_that_is_open_follows_what_is_live(docs):
    """After a promote it asks by the new path, and after a rollback by the old one again."""
    with reader.open(docs) as lake:
        before = lake.search("docs", QUERIES[0], 6)
        version = opened(docs).version
        build(docs, "map", to="watched", cascade=DEPTH)
        after = lake.search("docs", QUERIES[0], 6)
        assert (before.release, after.release, after.strategy) == (1, 2, "map")
        require_ranked(after.hits, ranked(docs, QUERIES[0], candidates(docs, QUERIES[0])))
        for release in (Pinned(1), Pinned(1, version)):
            pinned = lake.search("docs", QUERIES[0], 6, release=release)
            assert pinned.hits == before.hits
        rollback(docs, "docs", yes=True, dry_run=False)
        assert lake.search("docs", QUERIES[0], 6).hits == before.hits
        require_ranked(
            lake.search("docs", QUERIES[0], 6, release=Pinned(2)).hits,
            [(h.item_id, h.chunk_no, h.score) for h in after.hits],
        )


def test_a_version_that_was_can_be_read_by_its_own_path(docs):
    """Of a release that was a map then, with rows that are native by now."""
    build(docs, "map", to="watched")
    version, query = opened(docs).version, QUERIES[3]
    with reader.open(docs) as lake:
        before = lake.search("docs", query, 30)
        fill(docs)
        now = lake.search("docs", query, 30)
        assert {h.origin for h in before.hits} == {"encoded", "mapped"}
        assert {h.origin for h in now.hits} == {"encoded"}
        frozen = lake.search("docs", query, 30, release=Pinned(2, version))
        assert (frozen.version, frozen.hits) == (version, before.hits)
        assert lake.search("docs", query, 30, release=Pinned(2)).hits == now.hits


def test_where_nothing_is_admitted_nothing_is_found(cascading):
    """Neither of the spaces has a candidate, and that is no error."""
    assert found(cascading, QUERIES[0], where="topic = 'none'") == ()
    few = found(cascading, QUERIES[0], 30, where="topic = 'tax'")
    assert len(few) == 20
    assert all(int(h.item_id[1:]) % 6 == 4 for h in few)


def test_more_than_the_cascade_is_deep_can_be_asked_for(cascading):
    """Then as many are encoded as are wanted."""
    assert len({h.item_id for h in found(cascading, QUERIES[0], 120)}) == 120


PICTURES = """
    encoders:
      old: {model: "fake:16", modality: image}
      new: {model: "fake:32", modality: image}
    collections:
      docs: {source: {kind: files, path: docs}, encoder: old, max_deleted: 1.0}
"""


@pytest.mark.parametrize("strategy", ["map", "bridge"])
def test_images_are_read_again_and_ranked(make_project, run_ingest, strategy):
    """By what the new encoder sees in the files; one that is gone keeps a mapped score, or leaves."""
    from encoders.catalog import describe, open_media_encoder, open_preparer
    from encoders.files import HashCache

    project = make_project(PICTURES)
    for seed in range(40):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(project.root / f"docs/{seed:02}.png")
    run_ingest(project)
    release = build(project, strategy, cascade=DEPTH, sample=20)
    spec = project.encoders["new"]
    facts = describe(spec, HashCache(None))
    preparer, encoder = open_preparer(spec, facts), open_media_encoder(spec, facts)

    def native(name):
        return encoder.encode([preparer.prepare(Image.open(project.root / "docs" / name).convert("RGB"))])[0]

    asked = native("07.png")
    hits = found(project, MediaQuery(project.root / "docs/07.png", "image"))
    assert len(hits) == 6
    expected = [cosines(asked, [native(h.item_id)])[0] for h in hits]
    assert [h.score for h in hits] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    assert [h.score for h in hits] == pytest.approx(expected, abs=1e-5)
    space = opened(project).head.release(release.through or release.release).space_id
    assert kept.files(project.lake / "docs", space)
    gone = [f"{seed:02}.png" for seed in range(8, 40)]
    for name in gone:
        (project.root / "docs" / name).unlink()
    wide = found(project, MediaQuery(project.root / "docs/06.png", "image"), 40)
    origins = {h.item_id: h.origin for h in wide}
    assert set(origins.values()) == ({"encoded"} if strategy == "bridge" else {"encoded", "mapped"})
    assert len(origins) == (40 if strategy == "map" else len(origins))

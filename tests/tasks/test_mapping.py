"""Stored rows carried over by a basis: each from its own row, and none that is a map already."""

import io
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from encoders.basis.files import from_bytes
from encoders.catalog import describe
from encoders.files import HashCache
from encoders.logmel import LogMelEncoder, LogMelPreparer
from encoders.sounds import decode_audio
from encoders.spec import EncoderSpec
from flows.maintain import MaintainRequest, maintain
from flows.settings import load_project
from storage import bases, kept, parquet
from storage.locks import lock
from tasks import mapping, sampling, upgrade
from tasks.native import kept_table
from tasks.paths import space_of
from tasks.progress import quietly
from tasks.releases import promote
from tasks.status import rejects
from tests.tasks import drifted
from tests.tasks.drifted import build, encoded, held, opened


@pytest.fixture(scope="module")
def changed(ingested, tmp_path_factory):
    """The folder of a collection of three files, with rows that were changed and deleted in each."""
    from flows.ingest import IngestRequest, ingest

    folder = tmp_path_factory.mktemp("changed") / "project"
    shutil.copytree(ingested, folder)
    project = load_project(folder)
    first, later, last = drifted.texts(120), drifted.texts(150, seed=1), drifted.texts(170, seed=2)
    second = [later[n] if n % 11 == 3 else row for n, row in enumerate(first) if n % 13] + later[120:]
    third = [last[int(r["id"][1:])] if r["id"].endswith("7") else r for r in second] + last[150:]
    for rows in (second, third):
        drifted.write(folder, rows)
        ingest(project, IngestRequest("docs"), quietly)
    return folder


@pytest.fixture
def several(changed, copied):
    """A project of one's own like it."""
    return copied(changed)


@pytest.fixture
def small(monkeypatch):
    """A window for every file, read a few rows at a time: every edge falls somewhere."""
    monkeypatch.setattr(mapping, "WINDOW_ROWS", 5)
    monkeypatch.setattr(parquet.batches, "__defaults__", (None, 7))


def texts_of(project):
    """The text of every chunk as the collection has it."""
    items = {}
    for _, _, table in opened(project).read("items", ["item_id", "text"]):
        items |= dict(zip(*(c.to_pylist() for c in table.columns), strict=True))
    head = opened(project).head
    rows = held(project, head.releases[0].space_id)
    return {key: items[key[0]][row["chunk_start"] : row["chunk_end"]] for key, row in rows.items()}


def require_carried(project, release, kind, source=None):
    """Every chunk is there once: encoded from its text, or mapped from its own row in the source space."""
    source = source or opened(project).head.releases[0]
    old, new, texts = held(project, source.space_id), held(project, release.space_id), texts_of(project)
    assert new.keys() == old.keys()
    basis = from_bytes(bases.read(opened(project).root, release.basis))
    for key, row in new.items():
        assert [row[n] for n in ("chunk_start", "chunk_end", "chunk_hash")] == [
            old[key][n] for n in ("chunk_start", "chunk_end", "chunk_hash")
        ]
        if row["origin"] == "encoded":
            assert (row["basis_id"], row["residual"]) == (None, None)
            expected = encoded(kind, [texts[key]])[0]
        else:
            assert (row["origin"], row["basis_id"]) == ("mapped", basis.basis_id)
            vector = np.array([old[key]["vector"]], np.float32)
            expected = basis.apply(vector, space=space_of(source), direction="rows")[0]
            assert row["residual"] == pytest.approx(float(basis.residuals(vector)[0]), rel=1e-4)
        np.testing.assert_allclose(row["vector"], expected, atol=1e-5)
    return {origin: sum(row["origin"] == origin for row in new.values()) for origin in ("encoded", "mapped")}


def require_indexed(project, release, index_of):
    """The index holds exactly the live rows of the space."""
    promote(project, "docs", release.release, yes=True, dry_run=False)
    rows = index_of(project).to_pylist()
    space = held(project, release.space_id)
    assert {(r["item_id"], r["chunk_no"], r["origin"]) for r in rows} == {
        (*key, row["origin"]) for key, row in space.items()
    }
    assert len(rows) == len(space)
    for row in rows:
        assert row["vector"] == space[row["item_id"], row["chunk_no"]]["vector"]


def test_every_row_is_made_of_its_own(several, small, index_of):
    """Over several files with masked rows, windows and batches; what was encoded in passing is as it was."""
    release = build(several, "map", to="watched")
    counts = require_carried(several, release, "Watched")
    assert 40 <= counts["encoded"] <= 60 < counts["mapped"]
    require_indexed(several, release, index_of)
    assert sum(release.space_id in commit.vectors for commit in opened(several).tail) == 3


@pytest.mark.parametrize("window", [5, 1_000], ids=["after a commit", "before it"])
def test_what_an_ingest_changes_meanwhile_is_never_a_map_of_what_it_was(
    several, small, run_ingest, index_of, monkeypatch, window
):
    """Items are changed, deleted and added once the rows of the first file are made."""
    monkeypatch.setattr(mapping, "WINDOW_ROWS", window)
    rows = pq.read_table(several.root / "docs.parquet").to_pylist()
    fresh = [{**r, "text": f"{r['text']} anew"} if n % 5 == 0 else r for n, r in enumerate(rows) if n % 7]
    done = []

    def progress(seen, total, durable):
        if not done:
            done.append((seen, durable))
            drifted.write(several.root, [*fresh, *drifted.texts(175, seed=4)[170:]])
            run_ingest(several)

    release = carried_out(several, progress)
    assert done == [(133, 133 if window < 133 else 0)]
    assert len({item_id for item_id, _ in texts_of(several)}) == len(fresh) + 5
    counts = require_carried(several, release, "New")
    assert counts["encoded"] > 60
    assert counts["mapped"] > 60
    require_indexed(several, release, index_of)


def carried_out(project, progress, to="new"):
    """A map, built while something else goes on in `progress`; the release."""
    root = project.lake / "docs"
    folder = project.root / "work"
    with lock(root, "upgrade") as lease:
        begun = drifted.begin(project, "map", folder, lease, to=to)
        upgrade.build(project, begun, folder, lease, progress)
        with lock(root, "ingest") as arrivals:
            upgrade.finish(project, begun, folder, arrivals, quietly, promote=True, yes=True)
    return opened(project).head.live


def test_files_that_are_compacted_meanwhile_are_mapped_again(several, small):
    """What was committed stays; rows of files that are gone are made anew from those that took over."""
    done = []

    def progress(seen, total, durable):
        if durable and not done:
            done.append(durable)
            maintain(several, MaintainRequest("docs"))

    release = carried_out(several, progress)
    assert done
    require_carried(several, release, "New")


def keep_one_chunk(project, item_id):
    """Have the second chunk of an item native, the others maps, as after a cascade."""
    release = opened(project).head.live
    row = held(project, release.space_id)[item_id, 1]
    made = encoded("New", [texts_of(project)[item_id, 1]])
    rows = kept_table([item_id], [1], [row["chunk_hash"]], made)
    kept.keep(project.lake / "docs", release.space_id, rows)
    assert drifted.fill(project, rows=0).folded > 1


class Killed(BaseException):
    """As good as kill -9, but for the process."""


@pytest.mark.parametrize("after", [1, 2])
def test_a_map_that_died_goes_on_from_its_last_window(several, small, index_of, after):
    """The same release is gone on with; no row is there twice, and none is missing."""
    root, folder = several.lake / "docs", several.root / "work"
    seen = []

    def progress(_, total, durable):
        if durable and durable not in seen:
            seen.append(durable)
        if len(seen) == after:
            raise Killed

    with lock(root, "upgrade") as lease:
        begun = drifted.begin(several, "map", folder, lease)
        with pytest.raises(Killed):
            upgrade.build(several, begun, folder, lease, progress)
    landed = held(several, begun.release.space_id)
    assert 0 < len(landed) < opened(several).head.index.rows
    with lock(root, "upgrade") as lease:
        upgrade.build(several, begun, folder, lease, quietly)
    after_all = held(several, begun.release.space_id)
    assert {key: after_all[key] for key in landed} == landed
    require_carried(several, begun.release, "New")
    require_indexed(several, begun.release, index_of)


def test_maps_are_never_mapped_again(several):
    """A third encoder's rows are made from the native space of the first, though maps are live."""
    first = opened(several).head.live
    build(several, "map")
    third = build(several, "map", to="newer")
    assert third.upgraded_from == 2
    counts = require_carried(several, third, "Newer", first)
    assert counts["mapped"] > 60


def test_without_the_native_space_maps_are_encoded(several):
    """Once the first release is retired, only rows that the second encoder made itself can be mapped."""
    build(several, "map")
    keep_one_chunk(several, "i040")
    yaml = drifted.YAML.replace("max_deleted: 1.0", "max_deleted: 1.0\n    retain: {releases: 0}")
    (several.root / "evervec.yaml").write_text(yaml)
    maintain(load_project(several.root), MaintainRequest("docs"))
    snapshot = opened(several)
    assert snapshot.head.releases[0].retired
    second = snapshot.head.live
    native = {key for key, row in held(several, second.space_id).items() if row["origin"] == "encoded"}
    third = build(several, "map", to="newer", sample=20)
    rows = held(several, third.space_id)
    assert rows.keys() == held(several, second.space_id).keys()
    mapped = {key for key, row in rows.items() if row["origin"] == "mapped"}
    assert mapped
    assert mapped < native
    assert {("i040", 0), ("i040", 1)} & native == {("i040", 1)}  # not whole, so that all of it is encoded
    assert not {key for key in mapped if key[0] == "i040"}
    basis = from_bytes(bases.read(opened(several).root, third.basis))
    old = held(several, second.space_id)
    for key in mapped:
        vector = np.array([old[key]["vector"]], np.float32)
        expected = basis.apply(vector, space=space_of(second), direction="rows")[0]
        np.testing.assert_allclose(rows[key]["vector"], expected, atol=1e-5)


SOUNDS = """
    encoders:
      old: {model: "fake:16", modality: audio}
      new: {model: "fake:32", modality: audio}
    collections:
      docs: {source: {kind: files, path: docs}, encoder: old, max_deleted: 1.0}
"""


def test_rows_without_side_features_are_not_mapped(make_project, run_ingest):
    """A sound that is gone has none, and cannot be encoded either: it is missing, and a reject."""
    project = make_project(SOUNDS)
    names = [f"{seed:02}.wav" for seed in range(24)]
    for seed, name in enumerate(names):
        soundfile.write(project.root / "docs" / name, noise(seed), 8_000)
    run_ingest(project)
    source = opened(project).head.live
    drawn = sampling.drawn(opened(project), source.space_id, 18, ())
    gone, *others = sorted(set(names) - set(drawn))
    (project.root / "docs" / gone).unlink()
    release = build(project, "map", family="ridge", side=True, sample=18)
    old, new = held(project, source.space_id), held(project, release.space_id)
    assert {item_id for item_id, _ in new} == {*drawn, *others}
    assert {item_id for (item_id, _), row in new.items() if row["origin"] == "mapped"} == set(others)
    basis = from_bytes(bases.read(opened(project).root, release.basis))
    for name in others:
        vector = np.array([old[name, 0]["vector"]], np.float32)
        side = side_of(noise(int(name[:2])))
        expected = basis.apply(vector, side, space=space_of(source), direction="rows")
        np.testing.assert_allclose(new[name, 0]["vector"], expected[0], atol=1e-3)
    assert [r["item_id"] for r in rejects(project, "docs")] == [gone]


def noise(seed):
    return (0.2 * np.random.default_rng(seed).standard_normal(4_000)).clip(-1, 1).astype(np.float32)


def side_of(samples):
    """The side features of a sound."""
    content = io.BytesIO()
    soundfile.write(content, samples, 8_000, format="WAV")
    preparer = LogMelPreparer()
    facts = describe(EncoderSpec(model="builtin:audio-logmel", modality="audio"), HashCache(None))
    decoded = decode_audio(content.getvalue(), preparer.rate)[0]
    return LogMelEncoder(facts).encode([preparer.prepare(decoded)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_give_the_rows_that_this_process_gives(changed, tmp_path):
    """The same basis, the same rows, wherever they are made."""
    made = {}
    for where, resources in (("here", "{}"), ("ray", "{actors: 1}")):
        shutil.copytree(changed, tmp_path / where)
        yaml = drifted.YAML.replace("max_deleted: 1.0", f"max_deleted: 1.0\n    resources: {resources}")
        (tmp_path / where / "evervec.yaml").write_text(yaml)
        project = load_project(tmp_path / where)
        release = build(project, "map")
        require_carried(project, release, "New")
        rows = held(project, release.space_id)
        made[where] = {key: {n: v for n, v in row.items() if n != "run_id"} for key, row in rows.items()}
    assert made["here"] == made["ray"]

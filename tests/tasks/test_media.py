"""Images and audio through the pipeline: the same verbs and guarantees as texts."""

import io
import json
import os
from itertools import pairwise, product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from encoders.fake import FakeMediaEncoder
from flows.doctor import DoctorRequest, doctor
from flows.export import ExportRequest, export
from flows.imports import ImportRequest, import_vectors
from storage.errors import QueryRefused
from storage.snapshot import Snapshot
from tasks import calls as calls_module
from tasks import complete, page, reader, steps, upkeep
from tasks.errors import SourceUnusable
from tasks.imports import Given
from tasks.media import Contents, cell
from tasks.questions import MediaQuery
from tasks.releases import promote
from tasks.status import rejects
from tests.encoders import hostile, joint

NAMES = ["C.JPG", "a.png", "b.jpg", "trip/d.webp", "trip/e.tiff", "trip/f.bmp"]
IMAGES = """
    encoders: {enc: {model: "fake:32", modality: image}}
    collections:
      photos: {source: {kind: files, path: photos}, encoder: enc, max_deleted: 1.0}
"""
SOUNDS = """
    encoders: {enc: {model: "fake:32", modality: audio}}
    collections:
      calls:
        source: {kind: files, path: calls}
        encoder: enc
        chunk: {seconds: 2, overlap_seconds: 0.5}
        max_deleted: 1.0
"""


def picture(seed, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def tone(seconds, hertz=440.0, rate=8_000):
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def photos(make_project):
    """A project with six images of six formats."""
    project = make_project(IMAGES)
    folder = project.root / "photos"
    (folder / "trip").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.jpg", "C.JPG", "trip/d.webp", "trip/e.tiff", "trip/f.bmp")):
        picture(seed).save(folder / name)
    return project


@pytest.fixture
def calls(make_project):
    """A project with three sounds of three formats, the longest of 5 s."""
    project = make_project(SOUNDS)
    folder = project.root / "calls"
    folder.mkdir()
    soundfile.write(folder / "short.wav", tone(1.0), 8_000)
    soundfile.write(folder / "long.flac", tone(5.0, 300.0, 16_000), 16_000)
    soundfile.write(folder / "stereo.ogg", np.stack([tone(2.0), tone(2.0, 220)], axis=1), 8_000)
    return project


def asked(project, sql):
    with reader.open(project) as lake:
        return lake.sql(sql).to_pylist()


def test_images_land_with_what_they_are(photos, run_ingest):
    """One vector each, and size and format in `media`; the raw file stays where it is."""
    report = run_ingest(photos, "photos")
    assert (report.added, report.rejected, report.chunks) == (6, 0, 6)
    rows = asked(
        photos, "SELECT item_id, modality, media, text, bytes, uri FROM photos_items ORDER BY item_id"
    )
    assert [r["item_id"] for r in rows] == [
        "C.JPG",
        "a.png",
        "b.jpg",
        "trip/d.webp",
        "trip/e.tiff",
        "trip/f.bmp",
    ]
    assert {(r["media"]["width"], r["media"]["height"]) for r in rows} == {(40, 30)}
    assert [r["media"]["format"] for r in rows] == ["jpeg", "png", "jpeg", "webp", "tiff", "bmp"]
    assert {r["modality"] for r in rows} == {"image"}
    assert all(r["text"] is None for r in rows)
    assert [r["bytes"] for r in rows] == [
        (photos.root / "photos" / r["item_id"]).stat().st_size for r in rows
    ]


def test_a_second_run_encodes_nothing_and_edits_and_deletions_are_followed(photos, run_ingest):
    """As with texts: the diff is by content."""
    run_ingest(photos, "photos")
    again = run_ingest(photos, "photos")
    assert (again.unchanged, again.encoded, again.version) == (6, 0, 1)
    folder = photos.root / "photos"
    picture(77).save(folder / "a.png")
    (folder / "b.jpg").unlink()
    (folder / "copy.webp").write_bytes((folder / "trip/d.webp").read_bytes())
    report = run_ingest(photos, "photos")
    assert (report.added, report.updated, report.deleted, report.encoded) == (1, 1, 1, 1)
    vectors = {r["item_id"]: r["vector"] for r in asked(photos, "SELECT item_id, vector FROM photos")}
    assert vectors["copy.webp"] == vectors["trip/d.webp"]


def test_broken_files_are_rejects_and_the_good_ones_land(photos, run_ingest, tmp_path):
    """Each with the stage that it failed in and a reason."""
    folder = photos.root / "photos"
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image at all")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:-200])
    outside = tmp_path / "outside.png"
    picture(5).save(outside)
    (folder / "link.png").symlink_to(outside)
    report = run_ingest(photos, "photos")
    assert (report.added, report.rejected) == (6, 4)
    stages = {r["item_id"]: r["stage"] for r in rejects(photos, "photos")}
    assert stages == {"empty.png": "decode", "text.jpg": "decode", "cut.png": "decode", "link.png": "pull"}
    again = run_ingest(photos, "photos")
    assert (again.encoded, again.version) == (0, report.version)
    picture(9).save(folder / "text.jpg")
    assert run_ingest(photos, "photos").added == 1


def test_a_good_item_that_breaks_keeps_its_last_rows(photos, run_ingest):
    """Marked with the time since when they are of an earlier content."""
    run_ingest(photos, "photos")
    (photos.root / "photos/a.png").write_bytes(b"broken")
    run_ingest(photos, "photos")
    rows = asked(photos, "SELECT stale_since, media.format FROM photos WHERE item_id = 'a.png'")
    assert rows[0]["stale_since"] is not None
    assert rows[0]["format"] == "png"


def test_audio_is_cut_into_windows_of_seconds(calls, run_ingest):
    """Offsets are milliseconds in the files, seconds in SQL; every second is in a window."""
    assert run_ingest(calls, "calls").rejected == 0
    rows = asked(
        calls,
        "SELECT item_id, chunk_no, chunk_start, start_seconds, end_seconds, media FROM calls ORDER BY ALL",
    )
    long = [(r["start_seconds"], r["end_seconds"]) for r in rows if r["item_id"] == "long.flac"]
    assert long[0][0] == 0.0
    assert long[-1][1] == 5.0
    assert all(end - start <= 2.0 for start, end in long)
    assert all(later[0] <= sooner[1] for sooner, later in pairwise(long))
    assert [r["start_seconds"] * 1000 for r in rows] == [r["chunk_start"] for r in rows]
    facts = {r["item_id"]: r["media"] for r in rows}
    assert facts["stereo.ogg"]["channels"] == 2
    assert facts["long.flac"]["rate"] == 16_000
    assert facts["long.flac"]["seconds"] == pytest.approx(5.0)
    assert facts["short.wav"]["format"] == "wav"


def test_an_edited_tail_encodes_only_its_windows(calls, run_ingest):
    """Windows whose samples are the same take their vectors from the lake."""
    run_ingest(calls, "calls")
    before = asked(calls, "SELECT chunk_no, vector FROM calls WHERE item_id = 'long.flac' ORDER BY chunk_no")
    samples = tone(5.0, 300.0, 16_000)
    samples[-8_000:] = 0.1
    soundfile.write(calls.root / "calls/long.flac", samples, 16_000)
    assert run_ingest(calls, "calls").updated == 1
    after = asked(calls, "SELECT chunk_no, vector FROM calls WHERE item_id = 'long.flac' ORDER BY chunk_no")
    assert after[0]["vector"] == before[0]["vector"]
    assert after[-1]["vector"] != before[-1]["vector"]


def write_table(path, ids, column, values, extra=()):
    pq.write_table(pa.table({"id": ids, column: values, **dict(extra)}), path, row_group_size=3)


def test_a_table_of_paths(make_project, run_ingest, tmp_path):
    """Files are named by the rows, attributes come along; what leads out of the root is a reject."""
    (tmp_path / "files").mkdir()
    for seed in range(4):
        picture(seed).save(tmp_path / f"files/{seed}.png")
    picture(9).save(tmp_path / "secret.png")
    names = [f"{n}.png" for n in range(4)] + ["../secret.png", "gone.png", None]
    write_table(tmp_path / "t.parquet", list("abcdefg"), "file", names, {"year": [2020] * 7}.items())
    project = make_project("""
        encoders: {enc: {model: "fake:32", modality: image}}
        collections:
          shop:
            source: {kind: table, path: t.parquet, id: id, media: file, root: files, attributes: [year]}
            encoder: enc
    """)
    report = run_ingest(project, "shop")
    assert (report.added, report.rejected) == (4, 3)
    assert asked(project, "SELECT item_id, year FROM shop ORDER BY 1") == [
        {"item_id": i, "year": 2020} for i in "abcd"
    ]
    assert {r["item_id"]: r["stage"] for r in rejects(project, "shop")} == dict.fromkeys("efg", "pull")


@pytest.mark.parametrize("column", ["raw", "image.bytes"])
def test_a_table_of_bytes(column, make_project, run_ingest, tmp_path):
    """Cells are hashed a few at a time and read again where they are decoded."""
    contents = []
    for seed in range(20):
        out = io.BytesIO()
        picture(seed).save(out, "PNG")
        contents.append(out.getvalue())
    contents[7] = b"broken"
    values = contents if column == "raw" else [{"bytes": c, "path": None} for c in contents]
    ids = [f"{n:02}" for n in range(20)]
    write_table(tmp_path / "t.parquet", ids, column.partition(".")[0], values)
    project = make_project(f"""
        encoders: {{enc: {{model: "fake:32", modality: image}}}}
        collections:
          shop: {{source: {{kind: table, path: t.parquet, id: id, media: {column}}}, encoder: enc}}
    """)
    report = run_ingest(project, "shop")
    assert (report.added, report.rejected) == (19, 1)
    assert rejects(project, "shop")[0]["item_id"] == "07"
    values[3] = values[4]
    values[19] = values[0]
    write_table(tmp_path / "t.parquet", ids, column.partition(".")[0], values)
    again = run_ingest(project, "shop")
    assert (again.updated, again.encoded, again.unchanged) == (2, 0, 17)
    vectors = {r["item_id"]: r["vector"] for r in asked(project, "SELECT item_id, vector FROM shop")}
    assert vectors["03"] == vectors["04"]
    assert vectors["19"] == vectors["00"]


def test_cells_are_found_in_any_order(tmp_path):
    """Backwards, far ahead, and not beyond the end."""
    write_table(tmp_path / "t.parquet", list(range(1_000)), "raw", [str(n).encode() for n in range(1_000)])
    contents = Contents("raw")
    for row in (1, 2, 900, 17, 18, 40, 39, 1_000, 1):
        assert contents.raw(cell(tmp_path / "t.parquet", row)) == str(row - 1).encode()
    with pytest.raises(Exception, match="not in the table any more"):
        contents.raw(cell(tmp_path / "t.parquet", 1_001))
    assert contents.raw(cell(tmp_path / "t.parquet", 5)) == b"4"


def test_what_changes_between_listing_and_reading_is_not_encoded_as_something_else(
    photos, run_ingest, monkeypatch
):
    """It is a reject of this run, and taken by the next."""
    listed = steps.pull_and_diff

    def then_changed(*given):
        plan = listed(*given)
        picture(50).save(photos.root / "photos/a.png")
        (photos.root / "photos/b.jpg").unlink()
        return plan

    with monkeypatch.context() as patch:
        patch.setattr(steps, "pull_and_diff", then_changed)
        report = run_ingest(photos, "photos")
    assert (report.added, report.rejected) == (4, 2)
    assert {r["stage"] for r in rejects(photos, "photos")} == {"pull"}
    again = run_ingest(photos, "photos")
    assert (again.added, again.rejected) == (1, 0)
    assert rejects(photos, "photos") == []


def test_media_that_moved_are_found_where_they_are_now(photos, run_ingest):
    """No vector is made again, but the uri follows."""
    run_ingest(photos, "photos")
    (photos.root / "photos").rename(photos.root / "elsewhere")
    settings = photos.collections["photos"]
    source = settings.source.model_copy(update={"path": photos.root / "elsewhere"})
    moved = photos.model_copy(
        update={"collections": {"photos": settings.model_copy(update={"source": source})}}
    )
    report = run_ingest(moved, "photos")
    assert (report.updated, report.encoded, report.deleted) == (6, 0, 0)
    uris = [r["uri"] for r in asked(moved, "SELECT uri FROM photos")]
    assert all("/elsewhere/" in uri for uri in uris)


def test_an_image_is_searched_with_an_image(photos, run_ingest):
    """The same picture in a lossless format is the nearest; words, sounds and broken files are refused."""
    run_ingest(photos, "photos")
    query = MediaQuery(photos.root / "photos/a.png", "image")
    with reader.open(photos) as lake:
        found = lake.search("photos", query, 3)
        assert found.modality == "image"
        assert found.hits[0].item_id == "a.png"
        assert found.hits[0].score == pytest.approx(1.0, abs=1e-5)
        assert found.hits[0].text is None
        with pytest.raises(QueryRefused, match=r"knows no text queries.*--image FILE"):
            lake.search("photos", "a red car")
        with pytest.raises(QueryRefused, match="knows no audio queries"):
            lake.search("photos", MediaQuery(query.path, "audio"))
        with pytest.raises(QueryRefused, match="No such file"):
            lake.search("photos", MediaQuery(photos.root / "nope.png", "image"))
        with pytest.raises(QueryRefused, match="cannot be searched with"):
            lake.search("photos", MediaQuery(photos.root / "evervec.yaml", "image"))
        with pytest.raises(QueryRefused, match=r"^fake:32 knows no text queries"):
            lake.sql("SELECT item_id FROM search('photos', 'a red car', 3)")
        with pytest.raises(QueryRefused, match="has no words"):
            lake.search("photos", "words", mode="text")
        with pytest.raises(QueryRefused, match="ranks by words"):
            lake.search("photos", query, mode="hybrid")


def test_a_sound_is_searched_with_a_sound(calls, run_ingest):
    """Hits say where in the sound."""
    run_ingest(calls, "calls")
    with reader.open(calls) as lake:
        found = lake.search("calls", MediaQuery(calls.root / "calls/short.wav", "audio"), 2)
    assert found.hits[0].item_id == "short.wav"
    assert (found.hits[0].chunk_start, found.hits[0].chunk_end) == (0, 1_000)


def test_a_page_shows_pictures_and_players_and_escapes_names(photos, calls, run_ingest):
    """Self-contained: nothing is loaded from elsewhere; a file that is gone is said to be."""
    folder = photos.root / "photos"
    (folder / "a.png").rename(folder / "<b>a&.png")
    run_ingest(photos, "photos")
    query = MediaQuery(folder / "<b>a&.png", "image")
    with reader.open(photos) as lake:
        found = lake.search("photos", query, 6)
    (folder / "b.jpg").unlink()
    shown = page.page(photos, "photos", query, found)
    assert shown.count("data:image/jpeg;base64,") == 6  # the query, and five that are still there
    assert "cannot be read any more" in shown
    assert "<b>a" not in shown
    assert "http" not in shown
    run_ingest(calls, "calls")
    heard = MediaQuery(calls.root / "calls/long.flac", "audio")
    with reader.open(calls) as lake:
        shown = page.page(calls, "calls", heard, lake.search("calls", heard, 3))
    assert shown.count("<audio controls") == 4
    assert "data:audio/mpeg;base64," in shown


def test_the_log_says_what_the_items_are(photos, run_ingest):
    """For readers that know only FORMAT.md."""
    run_ingest(photos, "photos")
    head = Snapshot.open(photos.lake / "photos").head
    assert head.modality == "image"
    assert json.loads(head.model_dump_json())["schema_id"] == 2


def test_words_find_pictures_where_the_encoder_is_joint(joint_model, make_project, run_ingest):
    """A model that was trained on captions: text to image, end to end, and in SQL."""
    project = make_project(f"""
        encoders: {{clip: {{model: "{joint_model}", modality: image}}}}
        collections: {{shapes: {{source: {{kind: files, path: shapes}}, encoder: clip}}}}
    """)
    folder = project.root / "shapes"
    folder.mkdir()
    for number, (colour, shape) in enumerate(product(joint.COLOURS, joint.SHAPES)):
        joint.draw(colour, shape, number).save(folder / f"{colour} {shape}.png")
    assert run_ingest(project, "shapes").added == len(joint.COLOURS) * len(joint.SHAPES)
    with reader.open(project) as lake:
        for colour, shape in product(joint.COLOURS, joint.SHAPES):
            found = lake.search("shapes", f"a {colour} {shape}", 3).hits
            assert f"{colour} {shape}.png" in [hit.item_id for hit in found]
        by_sql = lake.sql("SELECT item_id FROM search('shapes', 'a red circle', 1)").to_pylist()
        assert by_sql[0]["item_id"].startswith("red")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_hostile_files_cost_only_themselves(make_project, run_ingest):
    """More than a hundred of them among good ones of every format: each is refused where it should be."""
    project = make_project("""
        encoders: {eye: {model: "fake:16", modality: image}, ear: {model: "fake:16", modality: audio}}
        collections:
          seen: {source: {kind: files, path: files}, encoder: eye}
          heard: {source: {kind: files, path: files}, encoder: ear}
    """)
    folder = project.root / "files"
    good = hostile.write_good(folder, 100, 3)
    bad = hostile.write_hostile(folder, 3)
    added = {"image": run_ingest(project, "seen").added, "audio": run_ingest(project, "heard").added}
    assert added == {kind: list(good.values()).count(kind) for kind in ("image", "audio")}
    told = {r["item_id"]: r["stage"] for c in ("seen", "heard") for r in rejects(project, c)}
    assert told == {name: stage for name, stage in bad.items() if name in told}
    assert len(told) > 100


def imported(project, path, **named):
    request = ImportRequest("photos", Given(path, **named), yes=True)
    return import_vectors(project, request, lambda *_: None)


def test_an_export_restores_a_collection_of_images(photos, run_ingest, make_project, tmp_path):
    """Facts, hashes and vectors; the next ingest of the same files encodes nothing."""
    run_ingest(photos, "photos")
    export(photos, ExportRequest("photos", "parquet", tmp_path / "backup"))
    config = IMAGES.replace("path: photos", f"path: {photos.root}/photos")
    other = make_project(config, folder=tmp_path / "other")
    assert imported(other, tmp_path / "backup").added == 6
    items = "SELECT item_id, modality, media, bytes, content_hash, uri FROM photos_items ORDER BY item_id"
    assert asked(other, items) == asked(photos, items)
    vectors = "SELECT item_id, vector FROM photos ORDER BY item_id"
    assert asked(other, vectors) == asked(photos, vectors)
    assert Snapshot.open(other.lake / "photos").head.modality == "image"
    assert run_ingest(other, "photos").encoded == 0


def test_media_are_read_again_for_another_release(photos, run_ingest, tmp_path):
    """Vectors of another encoder come in; the rest is encoded from the raw files, and kept complete."""
    run_ingest(photos, "photos")
    second = photos.encoders["enc"].model_copy(update={"model": "fake:16"})
    both = photos.model_copy(update={"encoders": {**photos.encoders, "second": second}})
    vectors = [[1.0] + [0.0] * 15] * 2
    table = pa.table({"id": ["a.png", "b.jpg"], "uri": ["a", "b"], "v": vectors})
    pq.write_table(table, tmp_path / "v.parquet")
    imported(both, tmp_path / "v.parquet", id="id", vector="v", uri="uri", encoder="second")
    (photos.root / "photos/trip/f.bmp").write_bytes(b"another now")
    done = complete.complete(both, "photos", 2, tmp_path / "spool", "run", steps._NoLease(), lambda *_: None)
    assert done.counts.encoded == 3
    assert [(r["item_id"], r["stage"]) for r in rejects(both, "photos")] == [("trip/f.bmp", "pull")]
    picture(12).save(photos.root / "photos/trip/f.bmp")
    report = run_ingest(both, "photos")
    assert report.updated == 1
    assert rejects(both, "photos") == []
    promote(both, "photos", 2, yes=True, dry_run=False)
    assert run_ingest(both, "photos").version > report.version
    origins = "SELECT origin, count(*) AS n FROM photos GROUP BY ALL ORDER BY ALL"
    assert asked(both, origins) == [{"origin": "encoded", "n": 4}, {"origin": "imported", "n": 2}]


def test_doctor_is_content_and_finds_other_weights(photos, calls, run_ingest, monkeypatch):
    """Canaries of images and of sounds are made anew and compared."""
    run_ingest(photos, "photos")
    run_ingest(calls, "calls")
    for project, collection in ((photos, "photos"), (calls, "calls")):
        assert doctor(project, DoctorRequest(collection, deep=True)).findings == ()
    honest = FakeMediaEncoder.encode
    monkeypatch.setattr(FakeMediaEncoder, "encode", lambda self, i: np.roll(honest(self, i), 1, axis=1))
    calls_module.opened_media.cache_clear()
    for project, collection in ((photos, "photos"), (calls, "calls")):
        [found] = doctor(project, DoctorRequest(collection)).findings
        assert "gives other vectors" in found.what


def test_what_could_not_be_read_is_tried_again(photos, run_ingest, monkeypatch):
    """A mount that was away while items were read: the very same files land with the next run."""
    listed = steps.pull_and_diff
    folder = photos.root / "photos"

    def then_away(*given):
        plan = listed(*given)
        (folder / "trip").rename(photos.root / "away")
        return plan

    with monkeypatch.context() as patch:
        patch.setattr(steps, "pull_and_diff", then_away)
        assert run_ingest(photos, "photos").rejected == 3
    (photos.root / "away").rename(folder / "trip")
    assert run_ingest(photos, "photos").added == 3
    assert rejects(photos, "photos") == []


@pytest.mark.parametrize("chunk", ["{seconds: 2}", "{seconds: 0.5}", "{seconds: 4, overlap_seconds: 2}"])
def test_windows_may_overlap_by_half(chunk, calls, run_ingest, make_project, tmp_path):
    """The default overlap is no more than that, however short the windows."""
    config = SOUNDS.replace("{seconds: 2, overlap_seconds: 0.5}", chunk)
    config = config.replace("path: calls", f"path: {calls.root}/calls")
    project = make_project(config, folder=tmp_path / "other")
    assert run_ingest(project, "calls").added == 3


def test_names_that_are_no_utf8_are_refused_by_name(photos, run_ingest):
    """Nothing could find such a file again by what a table can hold."""
    broken = os.fsencode(photos.root) + b"/photos/gr\xfc\xdfe.png"
    with open(broken, "wb") as file:
        picture(3).save(file, "PNG")
    report = run_ingest(photos, "photos")
    assert (report.added, report.rejected) == (6, 1)
    assert "not UTF-8" in rejects(photos, "photos")[0]["reason"]


def test_a_root_that_is_not_there_marks_nothing_as_lost(make_project, run_ingest, tmp_path):
    """A mount that is away stops the run before it begins."""
    (tmp_path / "files").mkdir()
    picture(1).save(tmp_path / "files/1.png")
    write_table(tmp_path / "t.parquet", ["a"], "file", ["1.png"])
    project = make_project("""
        encoders: {enc: {model: "fake:32", modality: image}}
        collections:
          shop: {source: {kind: table, path: t.parquet, id: id, media: file, root: files}, encoder: enc}
    """)
    assert run_ingest(project, "shop").added == 1
    (tmp_path / "files").rename(tmp_path / "elsewhere")
    with pytest.raises(SourceUnusable, match="is no folder"):
        run_ingest(project, "shop")
    assert Snapshot.open(project.lake / "shop").version == 1


def test_vectors_of_another_modality_are_not_imported(photos, run_ingest, tmp_path):
    """They would make a release that nothing could fill."""
    run_ingest(photos, "photos")
    words = photos.encoders["enc"].model_copy(update={"model": "fake:16", "modality": "text"})
    both = photos.model_copy(update={"encoders": {**photos.encoders, "words": words}})
    table = pa.table({"id": ["a.png"], "uri": ["a"], "v": [[1.0] + [0.0] * 15]})
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(SourceUnusable, match="is of image, encoder 'words' is for text"):
        imported(both, tmp_path / "v.parquet", id="id", vector="v", uri="uri", encoder="words")
    with pytest.raises(SourceUnusable, match="has no texts"):
        imported(both, tmp_path / "v.parquet", id="id", vector="v", text="uri", space="other")


def test_a_purge_takes_the_page_along(photos, run_ingest):
    """It shows what may have been deleted since."""
    run_ingest(photos, "photos")
    page.write(photos.page("photos"), "<html>")
    upkeep.purge(photos, "photos", yes=True, wait=0.0)
    assert not photos.page("photos").exists()

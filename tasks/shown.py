"""What a report shows beside its numbers: how scores of each origin lie, and some queries side by side."""

import numpy as np

from encoders.basis import measure
from tasks.asking import Queries
from tasks.probed import Sample as SampleQuery
from tasks.probed import SampleHit, Scores
from tasks.sampling import Sample
from tasks.trial import Trial, Tried

_QUERIES = 8
_HITS = 3
_BINS = 40


def histograms(trial: Trial, mapping: Tried | None, bridge: Tried | None) -> tuple[Scores, ...]:
    """Scores of the first ten rows of every query, by origin, with common edges."""
    found = {"encoded": trial.native}
    if trial.served is not None:
        found = {"old": trial.served, **found}
    if mapping is not None:
        found["mapped"] = trial.recall(mapping.basis)
    if bridge is not None:
        found["bridged"] = trial.recall(bridge.basis)
    tops = {origin: _first_ten(trial, scores) for origin, scores in found.items()}
    every = np.concatenate(list(tops.values()))
    edges = np.linspace(float(every.min()), float(every.max()) + 1e-6, _BINS + 1)
    return tuple(
        Scores(origin, tuple(map(float, edges)), tuple(map(int, np.histogram(scores, edges)[0])))
        for origin, scores in tops.items()
    )


def samples(
    trial: Trial, sample: Sample, queries: Queries, carried: Tried | None, *, texts: bool
) -> tuple[SampleQuery, ...]:
    """Some queries, spread evenly, as three searches answer them; texts only if asked for."""
    held = np.flatnonzero(sample.held)
    ids = [sample.item_ids[i] for i in held]
    first_text = [sample.texts[sample.first[i]] if texts and sample.texts else None for i in held]
    truth = trial.held.truth
    ways = [trial.served, trial.native, trial.recall(carried.basis) if carried else None]
    ranked = [None if way is None else measure.best_of_items(way, trial.held.first) for way in ways]
    chosen = np.unique(np.linspace(0, len(truth.relevant) - 1, _QUERIES).round().astype(int))

    def hits(scores: np.ndarray | None, query: int) -> tuple[SampleHit, ...]:
        if scores is None:
            return ()
        own = scores[query].copy()
        if truth.own[query] >= 0:
            own[truth.own[query]] = -np.inf
        best = measure.top(own[None, :], _HITS)[0]
        return tuple(
            SampleHit(ids[b], float(own[b]), bool(truth.relevant[query, b]), first_text[b]) for b in best
        )

    judged = bool((truth.own < 0).all())
    return tuple(
        SampleQuery(
            queries.shown[q] if judged and texts else None,
            None if judged else queries.shown[q],
            *(hits(scores, q) for scores in ranked),
        )
        for q in chosen.tolist()
    )


def _first_ten(trial: Trial, scores: np.ndarray) -> np.ndarray:
    """The best ten scores of each query, those of its own item left out."""
    lengths = np.diff(np.append(trial.held.first, scores.shape[1]))
    item_of = np.repeat(np.arange(len(lengths)), lengths)
    own = trial.held.truth.own[:, None] == item_of[None, :]
    held = np.where(own, -np.inf, scores)
    best = np.take_along_axis(held, measure.top(held, measure.K), axis=1).ravel()
    return best[best > -np.inf]

"""Rankings: chunks in the order in which they answer a query, and the only way there is to one.

Scores of two spaces, or of mapped and encoded rows that a release calibrates apart, mean different things.
What one search found in one space ranks as it is (`Ranking.of`); everything else goes through the release's
calibrators (`Ranking.merged`), and is refused where one is lacking.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.commits import Calibrator
from storage.vectors import Hits

_TIE = 1e-6
"""Of the raw score: a calibration makes some scores equal, which then keep their order."""


@dataclass(frozen=True)
class Leg:
    """What one search found in one space: `hits`, with scores that mean something only beside each other.

    `origin` is set where the release calibrates by it; None: the legs' rows are all of one kind.
    """

    space_id: str
    hits: Hits
    origin: str | None = None


class Uncalibrated(ValueError):
    """Scores of different spaces or origins were to be compared as they are."""


class Ranking:
    """Chunks, best first. Made by `of` and `merged` alone."""

    def __init__(self, rows: pa.Table, scores: np.ndarray, made_by: object) -> None:
        if made_by is not _MAKER:
            raise TypeError("a ranking is made by Ranking.of or Ranking.merged")
        self.rows, self.scores = rows, scores

    @classmethod
    def of(cls, leg: Leg) -> "Ranking":
        """What one search found in one space, by its own scores."""
        order = np.argsort(-leg.hits.scores, kind="stable")
        return cls(leg.hits.rows.take(pa.array(order)), leg.hits.scores[order], _MAKER)

    @classmethod
    def merged(cls, legs: Sequence[Leg], calibrators: Sequence[Calibrator]) -> "Ranking":
        """Several searches in one ranking: by relevance, as the calibrator of each says.

        A chunk that several found counts once, as the first of them has it. Raises `Uncalibrated` if a leg
        has no calibrator, for then its scores cannot be compared with the others'.
        """
        by_key = {(c.space_id, c.origin): c for c in calibrators}
        tables, scores = [], []
        for leg in legs:
            found = by_key.get((leg.space_id, leg.origin or ""))
            if found is None:
                raise Uncalibrated(
                    f"scores of {leg.origin or 'some'} rows of {leg.space_id} cannot be compared with "
                    "others: the release has no calibrator for them"
                )
            relevance = np.interp(leg.hits.scores, found.scores, found.relevance)
            tables.append(leg.hits.rows)
            scores.append(relevance + _TIE * leg.hits.scores)
        rows, every = pa.concat_tables(tables, promote_options="permissive"), np.concatenate(scores)
        first = _first_of_each(rows)
        rows, every = rows.take(pa.array(first)), every[first]
        order = np.argsort(-every, kind="stable")
        return cls(rows.take(pa.array(order)), every[order], _MAKER)


_MAKER = object()


def joined(first: Hits, second: Hits) -> Hits:
    """Candidates of two searches, each once. Their scores are of no use any more: they are NaN."""
    rows = pa.concat_tables([first.rows, second.rows], promote_options="permissive")
    rows = rows.take(pa.array(_first_of_each(rows)))
    return Hits(rows, np.full(rows.num_rows, np.nan))


def _first_of_each(rows: pa.Table) -> np.ndarray:
    seen: dict[tuple[str, int], int] = {}
    for at, key in enumerate(zip(rows["item_id"].to_pylist(), rows["chunk_no"].to_pylist(), strict=True)):
        seen.setdefault(key, at)
    return np.array(list(seen.values()), np.int64)

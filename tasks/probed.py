"""What a probe found, as values, and as the JSON that `reports/<id>/probe.json` holds.

Scores are means of `metric` over the held-out queries, in [0, 1]; intervals are 95 % intervals of such a
mean from a bootstrap over queries, (low, high).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, with_config

from tasks.errors import ProbeUnreadable

Interval = tuple[float, float]
"""Low and high end of a 95 % interval."""

Tier = Literal["judged", "label", "neighbours"]
"""What counts as a right answer: what people judged, an equal label, or what the new encoder itself finds."""

Strategy = Literal["reuse", "bridge", "map", "reencode"]


@dataclass(frozen=True)
class Cost:
    """What an option takes.

    `seconds` are those of building it, at the rates that were measured on this machine; `money` is in
    the currency of the configured price, null without one; `query_ms` is what it adds to a query.
    """

    encode_rows: int
    seconds: float
    bytes: int
    gpu_hours: float | None
    money: float | None
    query_ms: float


@dataclass(frozen=True)
class Option:
    """One way to carry the stored rows over, as it was measured.

    `cascade` is the number of candidates that are encoded natively and ranked again, 0 for none. `gain`
    is the mean difference to the status quo and its interval, (mean, low, high), paired over queries.
    `gap_closed` is null where ceiling and status quo are alike. `why` says in words why it passes or not.
    """

    strategy: Strategy
    basis: str | None
    side: bool
    cascade: int
    score: float
    interval: Interval
    gain: tuple[float, float, float]
    gap_closed: float | None
    cost: Cost
    passes: bool
    why: str


@dataclass(frozen=True)
class Fitted:
    """A basis family that was tried, alone and without a cascade; `seconds` are those of fitting it."""

    basis: str
    side: bool
    direction: str
    score: float
    interval: Interval
    seconds: float
    parameters: int
    chosen: bool


@dataclass(frozen=True)
class PairPoint:
    """The score of one family when it is fitted on so many pairs."""

    pairs: int
    score: float
    interval: Interval


@dataclass(frozen=True)
class BackfillCurve:
    """Scores while mapped rows are replaced by encoded ones in one order.

    `shares` are those of encoded rows, ascending in [0, 1]; `area` is that under the curve (trapezoids).
    """

    order: str
    shares: tuple[float, ...]
    scores: tuple[float, ...]
    area: float


@dataclass(frozen=True)
class Scores:
    """The raw scores of top-10 hits of one origin as a histogram; one edge more than counts, ascending.

    `origin` is `old` (old query, old row), `encoded`, `mapped`, or `bridged` (mapped query, old row).
    """

    origin: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class SampleHit:
    """A hit of a sample query; `relevant` is null where nobody can say, `text` without `--samples`."""

    item_id: str
    score: float
    relevant: bool | None
    text: str | None


@dataclass(frozen=True)
class Sample:
    """One query as three searches answer it: old, new (all encoded again), carried over as the verdict says.

    `query` is null without `--samples`; `item_id` is that of a held-out item that served as the query.
    """

    query: str | None
    item_id: str | None
    old: tuple[SampleHit, ...]
    new: tuple[SampleHit, ...]
    carried: tuple[SampleHit, ...]


@dataclass(frozen=True)
class Calibrated:
    """What a release of a strategy ranks rows of one origin by: a share of relevant hits for each score.

    Piecewise linear, both ascending; only where it was found to rank better than raw scores.
    """

    strategy: Strategy
    origin: str
    scores: tuple[float, ...]
    relevance: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """What the gate said. `stay` means that nothing passed, or nothing that may be afforded."""

    strategy: Strategy | Literal["stay"]
    cascade: int
    basis: str | None
    reason: str


@with_config(extra="forbid")
@dataclass(frozen=True)
class Probed:
    """All that a probe measured, and what it was measured on.

    `sample` items were drawn; `pairs` of their chunks fitted the bases, `gallery` others, of other items,
    were searched with `queries` queries; a query that is one of these items does not find itself.
    `intervals` has those of `status_quo`, `naive_swap` and `ceiling`. `made_at` is ISO 8601 in UTC, `version`
    the collection's, `rows` its chunks. Left out were `too_long` (longer than the new encoder reads: cut),
    `unreadable` and `changed` (other content than was stored) items, and `queries_unknown` queries whose
    relevant items are not in the collection.
    """

    id: str
    collection: str
    made_at: str
    version: int
    from_space: Annotated[str, Field(alias="from")]
    from_model: str
    to_space: Annotated[str, Field(alias="to")]
    to_model: str
    to_encoder: str
    rows: int
    items: int
    sample: int
    pairs: int
    gallery: int
    queries: int
    tier: Tier
    metric: str
    status_quo: float
    naive_swap: float
    ceiling: float
    intervals: Mapping[str, Interval]
    options: tuple[Option, ...]
    families: tuple[Fitted, ...]
    pair_curve: tuple[PairPoint, ...]
    pair_curve_basis: str
    backfill: tuple[BackfillCurve, ...]
    scores: tuple[Scores, ...]
    calibrators: tuple[Calibrated, ...]
    samples: tuple[Sample, ...]
    rows_per_second: float
    machine: str
    versions: Mapping[str, str]
    too_long: int
    unreadable: int
    changed: int
    queries_unknown: int
    fingerprints: Mapping[str, str]
    queries_hash: str | None
    label: str | None
    min_gap_closed: float
    seed: int
    verdict: Verdict
    notes: tuple[str, ...]

    @property
    def chosen(self) -> Option | None:
        """The option that the verdict names: of several, one that passes, then the best; None to stay."""
        said = self.verdict
        named = [
            o
            for o in self.options
            if (o.strategy, o.cascade, o.basis) == (said.strategy, said.cascade, said.basis)
        ]
        return max(named, key=lambda option: (option.passes, option.score), default=None)


def to_json(probed: Probed) -> dict[str, Any]:
    """The probe as a JSON object; the spaces are called `from` and `to` there."""
    document: dict[str, Any] = _adapter().dump_python(probed, mode="json", by_alias=True)
    return document


def from_json(document: dict[str, Any]) -> Probed:
    """The probe in a JSON object that `to_json` made, equal in every value.

    Raises `ProbeUnreadable` if a key is unknown or missing, or a value of another kind.
    """
    try:
        return _adapter().validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "(the whole)"
        raise ProbeUnreadable(key, first["msg"], document) from None


@cache
def _adapter() -> TypeAdapter[Probed]:
    return TypeAdapter(Probed)

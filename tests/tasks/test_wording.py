"""Numbers as a person reads them."""

import pytest

from tasks import wording


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (1e-7, "< 0.01 ms"),
        (0.0421, "42.1 ms"),
        (3.4, "3.4 s"),
        (59.96, "60 s"),
        (245, "4 min 5 s"),
        (599.7, "10 min"),
        (3_599, "1 h"),
        (3_846, "1 h 4 min"),
        (90_000, "1 day 1 h"),
        (40 * 86_400, "40 days"),
        (float("nan"), "–"),
    ],
)
def test_times_are_told_in_their_two_largest_units(seconds, said):
    """As a person would say them."""
    assert wording.duration(seconds) == said


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (wording.percent(0.934), "93 %"),
        (wording.percent(0.0164), "1.6 %"),
        (wording.percent(-0.308), "−31 %"),
        (wording.percent(3.2e-6), "< 0.1 %"),
        (wording.percent(None), "–"),
        (wording.size(0), "0 B"),
        (wording.size(999_600), "1 MB"),
        (wording.size(38_500_000), "38.5 MB"),
        (wording.milliseconds(0.04), "0.04 ms"),
        (wording.milliseconds(1_630), "1.63 s"),
        (wording.signed(-0.036), "−0.036"),
        (wording.score(float("nan")), "–"),
        (wording.count(1, "query", "queries"), "1 query"),
        (wording.count(2_000, "query", "queries"), "2,000 queries"),
    ],
)
def test_numbers_are_told_with_their_units(made, said):
    """Three digits that matter, thousands apart, a true minus sign."""
    assert made.replace("\u00a0", " ") == said

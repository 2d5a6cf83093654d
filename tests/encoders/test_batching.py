"""Packing texts into forward passes."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.batching import pack

LENGTHS = st.lists(st.integers(0, 300), max_size=80)


@settings(deadline=None, derandomize=True)
@given(lengths=LENGTHS, budget=st.integers(1, 600))
def test_every_input_once(lengths, budget):
    """The batches together hold each index exactly once."""
    batches = list(pack(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@settings(deadline=None, derandomize=True)
@given(lengths=LENGTHS, budget=st.integers(1, 600))
def test_within_the_budget(lengths, budget):
    """A batch padded to its longest member stays within the budget, unless it is a single input."""
    for batch in pack(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@settings(deadline=None, derandomize=True)
@given(lengths=LENGTHS, budget=st.integers(1, 600))
def test_sorted_by_length(lengths, budget):
    """Lengths never fall within and across batches; equal lengths keep their order of arrival."""
    order = [int(i) for batch in pack(lengths, budget) for i in batch]
    assert [(lengths[i], i) for i in order] == sorted((n, i) for i, n in enumerate(lengths))


@settings(deadline=None, derandomize=True)
@given(lengths=LENGTHS, budget=st.integers(1, 600))
def test_batches_are_full(lengths, budget):
    """No batch could have taken the first input of the next: passes are as few as sorting allows."""
    batches = list(pack(lengths, budget))
    for batch, following in pairwise(batches):
        assert (len(batch) + 1) * lengths[following[0]] > budget


def test_an_input_beyond_the_budget_is_alone():
    """An input longer than the budget gets a batch of its own and does not stop the others."""
    assert [list(b) for b in pack([5, 5000, 5, 6000], 100)] == [[0, 2], [1], [3]]


def test_indices_address_arrays():
    """Batches are integer arrays, so that results are put back by plain indexing."""
    (batch,) = pack([3, 1, 2], 100)
    assert np.issubdtype(batch.dtype, np.integer)
    assert batch.tolist() == [1, 2, 0]


def test_nothing_gives_no_batch():
    """Without input there is no batch."""
    assert list(pack([], 10)) == []

"""Arrow to numpy and back through the buffers, without pandas and without losing a bit."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import arrays

quick = settings(deadline=None, database=None, derandomize=True, max_examples=60)

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=20)
FIXED_WIDTH = {
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint8(): st.integers(0, 255),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.binary(16): st.binary(min_size=16, max_size=16),
}


@st.composite
def slices(draw, values):
    """A list of values, and a part of it given as (offset, length)."""
    whole = draw(st.lists(values, max_size=70))
    offset = draw(st.integers(0, len(whole)))
    return whole, offset, draw(st.integers(0, len(whole) - offset))


def as_numpy(values, kind):
    return np.array(values, dtype="V16" if kind == pa.binary(16) else kind.to_pandas_dtype())


@pytest.mark.parametrize("kind", list(FIXED_WIDTH), ids=str)
def test_to_numpy_gives_the_values_of_any_slice(kind):
    """An array, or a slice of it at any offset, becomes exactly its values, booleans at odd offsets too."""

    @quick
    @given(slices(FIXED_WIDTH[kind]))
    def check(cut):
        whole, offset, length = cut
        got = arrays.to_numpy(pa.array(whole, kind).slice(offset, length))
        expected = as_numpy(whole[offset : offset + length], kind)
        assert got.dtype == expected.dtype
        assert got.tolist() == expected.tolist()

    check()


@pytest.mark.parametrize("kind", list(FIXED_WIDTH), ids=str)
def test_from_numpy_gives_an_array_without_nulls(kind):
    """Values become a valid Arrow array of the wished type and come back unchanged, strided ones too."""

    @quick
    @given(st.lists(FIXED_WIDTH[kind], max_size=40), st.sampled_from([1, 2, -1]))
    def check(values, step):
        strided = as_numpy(values, kind)[::step]
        array = arrays.from_numpy(strided, kind)
        array.validate(full=True)
        assert (array.type, array.null_count) == (kind, 0)
        assert array.to_pylist() == values[::step]
        assert arrays.to_numpy(array).tolist() == strided.tolist()

    check()


def test_from_numpy_converts_to_the_wished_width():
    """Positions counted as int64 can be stored as int32 without another step."""
    assert arrays.from_numpy(np.arange(3), pa.int32()).equals(pa.array([0, 1, 2], pa.int32()))


@quick
@given(slices(st.one_of(st.none(), st.integers(0, 9))))
def test_validity_says_which_values_are_not_null(cut):
    """Nulls are found at any offset of a slice, and in arrays that have no null bitmap."""
    whole, offset, length = cut
    got = arrays.validity(pa.array(whole, pa.int64()).slice(offset, length))
    assert got.dtype == bool
    assert got.tolist() == [v is not None for v in whole[offset : offset + length]]


def test_the_values_beside_a_null_are_right():
    """Only what lies under a null is arbitrary: its neighbours keep their places."""
    got = arrays.to_numpy(pa.array([1, None, 3, None, 5], pa.int64()).slice(1))
    assert got[[1, 3]].tolist() == [3, 5]


@quick
@given(TEXTS)
def test_strings_are_utf8(values):
    """Any text, emoji, combining marks and NUL among it, survives in a valid string column."""
    array = arrays.strings(values)
    array.validate(full=True)
    assert array.type == pa.string()
    assert array.to_pylist() == values


@quick
@given(st.lists(st.binary(max_size=9), max_size=20))
def test_binaries_are_kept_byte_by_byte(values):
    """Any bytes, empty ones among them, survive in a valid large_binary column."""
    array = arrays.binaries(values)
    array.validate(full=True)
    assert array.type == pa.large_binary()
    assert array.to_pylist() == values


@quick
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.integers(0, 30))
def test_repeated_is_one_text_many_times(text, count):
    """A column of one value has that value in every row."""
    array = arrays.repeated(text, count)
    array.validate(full=True)
    assert array.type == pa.string()
    assert array.to_pylist() == [text] * count


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.binary(32), pa.struct([("a", pa.int8())])])
def test_empty_has_the_type_and_no_values(kind):
    """No values still have a type, so that they can be joined to others."""
    array = arrays.empty(kind)
    assert (array.type, len(array)) == (kind, 0)

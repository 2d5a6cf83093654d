"""A basis as bytes."""

import json
import pickle

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.basis.files import from_bytes, to_bytes
from encoders.errors import BasisUnfit
from tests.encoders.basis.made import clustered, fitted, mapped

VECTORS = clustered(400, 10)
BASIS = fitted("ridge", VECTORS, clustered(400, 6)).measured({"gap_closed": 0.7})
CONTENT = to_bytes(BASIS)


def test_round_trip():
    """What is read maps bit by bit as what was written, and says the same of itself."""
    read = from_bytes(CONTENT)
    assert read.basis_id == BASIS.basis_id
    assert (read.source, read.target, read.family) == (BASIS.source, BASIS.target, BASIS.family)
    assert read.metrics == BASIS.metrics
    np.testing.assert_array_equal(mapped(read, VECTORS), mapped(BASIS, VECTORS))
    np.testing.assert_array_equal(read.residuals(VECTORS), BASIS.residuals(VECTORS))


def test_bytes_are_deterministic():
    """The same basis is the same file, read and written again too."""
    assert {to_bytes(BASIS) for _ in range(20)} == {CONTENT}
    assert to_bytes(from_bytes(CONTENT)) == CONTENT


def test_any_safetensors_reader_can_read_it():
    """The file is a plain safetensors file with one metadata entry."""
    assert set(safetensors.numpy.load(CONTENT)) == set(BASIS.tensors)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, len(CONTENT) - 1), flip=st.integers(1, 255))
def test_a_changed_byte_changes_nothing_unseen(at: int, flip: int):
    """In header, metrics, tensors or padding: it is refused, or says the same (a blank, a 17th digit)."""
    changed = bytearray(CONTENT)
    changed[at] ^= flip
    try:
        read = from_bytes(bytes(changed))
    except BasisUnfit:
        return
    assert to_bytes(read) == CONTENT


def _with_header(**changes: object) -> bytes:
    header = json.loads(CONTENT[8 : 8 + int.from_bytes(CONTENT[:8], "little")])
    said = json.loads(header["__metadata__"]["evervec_basis"]) | changes
    tensors = {name: np.array(tensor) for name, tensor in BASIS.tensors.items()}
    return safetensors.numpy.save(tensors, {"evervec_basis": json.dumps(said, sort_keys=True)})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "these 0 bytes are no basis"),
        (CONTENT[:-4], "no basis"),
        (pickle.dumps({"weight": 1}), "no basis"),
        (safetensors.numpy.save({"offset": np.zeros(3, np.float32)}), "no basis"),
        (_with_header(format=2), "format 2, this version of evervec reads 1; upgrade"),
        (_with_header(direction="queries"), "changed after it was written"),
        (_with_header(metrics={"gap_closed": 1.0}), "changed after it was written"),
        (_with_header(basis_id="0" * 64), "says that it is 000000000000"),
        (_with_header(more=1), "no basis"),
    ],
    ids=range(9),
)
def test_what_is_no_basis_is_refused(content: bytes, says: str):
    """Whatever else is read ends in one error that says what to do."""
    with pytest.raises(BasisUnfit, match=says):
        from_bytes(content)

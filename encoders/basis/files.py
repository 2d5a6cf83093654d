"""A basis as bytes: safetensors with one metadata entry, and never pickle."""

import dataclasses
import hashlib
import json
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from encoders.basis.spec import Basis, Space
from encoders.errors import BasisUnfit

FORMAT = 1
"""Raise when older code would misread what is written."""

_KEY = "evervec_basis"


def to_bytes(basis: Basis) -> bytes:
    """The basis as a safetensors file; equal bases with equal metrics give equal bytes."""
    said = {
        "format": FORMAT,
        "basis_id": basis.basis_id,
        "family": basis.family,
        "direction": basis.direction,
        "source": dataclasses.asdict(basis.source),
        "target": dataclasses.asdict(basis.target),
        "side": basis.side,
        "side_dim": basis.side_dim,
        "pairs": basis.pairs,
        "seed": basis.seed,
        "metrics": dict(basis.metrics),
    }
    # One entry: the library writes several in an order that changes from call to call.
    header = {_KEY: json.dumps({**said, "seal": _seal(said)}, sort_keys=True)}
    return safetensors.numpy.save(dict(basis.tensors), header)


def from_bytes(content: bytes) -> Basis:
    """The basis in a safetensors file, exactly as it was written.

    Raises `BasisUnfit` if the bytes are anything else, are of a newer format, or were changed.
    """
    try:
        tensors = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        said: dict[str, Any] = json.loads(header["__metadata__"][_KEY])
        if said["format"] != FORMAT:
            raise BasisUnfit(
                f"the basis is of format {said['format']}, this version of evervec reads {FORMAT}; "
                "upgrade evervec, or fit the basis again"
            )
        sealed = said.pop("seal") == _seal(said)
        del said["format"]
        basis_id = said.pop("basis_id")
        source, target = Space(**said.pop("source")), Space(**said.pop("target"))
        basis = Basis(source=source, target=target, tensors=tensors, **said)
        found = basis.basis_id
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BasisUnfit(
            f"these {len(content)} bytes are no basis ({error}); fetch or fit it again"
        ) from None
    if not sealed or found != basis_id:
        raise BasisUnfit(
            f"the basis says that it is {str(basis_id)[:12]}, and its content is that of {found[:12]}: it "
            "was changed after it was written; fetch or fit it again"
        )
    return basis


def _seal(said: dict[str, Any]) -> str:
    """SHA-256 of what the header says, metrics too, which the id leaves out."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

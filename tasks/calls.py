"""Calls of an encoder: what is stored is left out, and an input that fails costs only itself."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from encoders.catalog import Device, open_encoder, open_media_encoder
from encoders.errors import BadVector, EncoderUnusable, RowError
from encoders.protocol import Encoder, MediaEncoder
from encoders.spec import EncoderFacts, EncoderSpec
from tasks.encoded import EncodeJob


@lru_cache(maxsize=1)
def opened(
    spec: EncoderSpec, facts: EncoderFacts, *, threads: int | None = None, device: Device | None = None
) -> Encoder:
    """The loaded encoder; one is kept, for a run that needs it twice."""
    return open_encoder(spec, facts, threads=threads, device=device)


@lru_cache(maxsize=1)
def opened_media(
    spec: EncoderSpec, facts: EncoderFacts, *, threads: int | None = None, device: Device | None = None
) -> MediaEncoder:
    """The loaded encoder of media; one is kept, for a run that needs it twice."""
    return open_media_encoder(spec, facts, threads=threads, device=device)


class Calls:
    """One encoder, and `stored`: the sorted S16 hashes of chunks that need no encoding, or their file."""

    def __init__(
        self, job: EncodeJob, stored: np.ndarray | Path, threads: int | None, device: Device | None
    ) -> None:
        self._stored = np.load(stored, mmap_mode="r") if isinstance(stored, Path) else stored
        self.dim = job.facts.dim
        opener = opened if job.facts.modality == "text" else opened_media
        self._encoder: Encoder | MediaEncoder = opener(job.spec, job.facts, threads=threads, device=device)

    def is_stored(self, key: bytes) -> bool:
        """Whether a chunk need not be encoded again."""
        place = int(np.searchsorted(self._stored, np.bytes_(key)))
        return place < len(self._stored) and self._stored[place] == np.bytes_(key)

    def vectors(self, wanted: dict[bytes, Any]) -> dict[bytes, "np.ndarray | RowError"]:
        """A vector, or why there is none, for every input; one bad input costs only itself."""
        if not wanted:
            return {}
        keys, inputs = list(wanted), list(wanted.values())
        try:
            matrix = self._encoder.encode(inputs)
        except EncoderUnusable:
            raise  # of no input, but of the encoder
        except Exception:  # noqa: BLE001 - whatever a model raises, it must be pinned to its input
            return {key: self._alone(one) for key, one in wanted.items()}
        return {key: _checked(vector, self.dim) for key, vector in zip(keys, matrix, strict=True)}

    def _alone(self, one: Any) -> "np.ndarray | RowError":
        try:
            return _checked(self._encoder.encode([one])[0], self.dim)
        except EncoderUnusable:
            raise
        except Exception as error:  # noqa: BLE001 - becomes a reject with its type and message
            return BadVector(f"the encoder failed on this input: {type(error).__name__}: {error}")


def _checked(vector: np.ndarray, dim: int) -> "np.ndarray | RowError":
    """A usable vector, or what is wrong with it: LanceDB would take NaN and zero, and never find them."""
    if vector.shape != (dim,):
        return BadVector(f"the encoder gave a vector of shape {vector.shape}, expected ({dim},)")
    if not np.isfinite(vector).all():
        return BadVector("the encoder gave NaN or infinite numbers for this input")
    if not vector.any():
        return BadVector("the encoder gave a zero vector for this input")
    return vector

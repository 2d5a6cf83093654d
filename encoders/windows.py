"""Audio in windows of seconds: the pieces that get one vector each."""

import hashlib
from collections.abc import Sequence

import numpy as np

from encoders.sounds import windows

Window = tuple[int, int, bytes]
"""Where it starts and ends, in milliseconds, and the hash of its samples."""


def cut(
    samples: np.ndarray, rate: int, seconds: float, overlap: float, known: Sequence[Window] | None = None
) -> list[tuple[Window, np.ndarray]]:
    """Windows of mono float32 `samples`, each with its own samples (a view); or `known` windows again."""
    if known is not None:
        return [(w, samples[_at(w[0], rate) : max(_at(w[1], rate), _at(w[0], rate) + 1)]) for w in known]
    found = []
    for start, end in windows(len(samples), rate, seconds=seconds, overlap=overlap):
        piece = samples[start:end]
        key = hashlib.sha256(piece.tobytes()).digest()[:16]
        found.append(((round(start * 1000 / rate), round(end * 1000 / rate), key), piece))
    return found


def _at(milliseconds: int, rate: int) -> int:
    return round(milliseconds * rate / 1000)

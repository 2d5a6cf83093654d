"""Encoders of texts that need no weights and drift apart as models do: hashed words and trigrams."""

import re
import zlib

import numpy as np

_WORD = re.compile(r"[a-z]+")


def _bags(texts, bins, words):
    out = np.zeros((len(texts), bins), np.float32)
    for row, text in enumerate(texts):
        lowered = text.lower()
        pieces = _WORD.findall(lowered) if words else []
        pieces += [lowered[i : i + 3] for i in range(max(1, len(lowered) - 2))] if not words else []
        for piece in pieces:
            key = zlib.crc32(piece.encode())
            out[row, key % bins] += 1.0 if key & 0x80000000 else -1.0
    return np.sign(out) * np.sqrt(np.abs(out))


class _Hashed:
    bins, words, seed = 4096, False, 1

    def encode(self, batch):
        random = np.random.default_rng(self.seed)
        basis = random.standard_normal((self.bins, self.dim)).astype(np.float32)
        made = _bags(batch, self.bins, self.words) @ basis + 1e-3
        return made / np.linalg.norm(made, axis=1, keepdims=True)


class Old(_Hashed):
    fingerprint, dim = "drifting-old", 24


class New(_Hashed):
    fingerprint, dim, words, seed = "drifting-new", 96, True, 2


class Newer(_Hashed):
    fingerprint, dim, words, seed = "drifting-newer", 160, True, 3


class Same(Old):
    fingerprint = "drifting-same"


class Worse(_Hashed):
    fingerprint, dim, seed = "drifting-worse", 4, 4


class Constant(_Hashed):
    fingerprint, dim = "drifting-constant", 16

    def encode(self, batch):
        return np.ones((len(batch), 16), np.float32) / 4


class Watched(New):
    """New, but for its name: it keeps the texts that it was given, and knows nothing of what is poisoned."""

    fingerprint, seen = "drifting-watched", []

    def encode(self, batch):
        self.seen.extend(batch)
        made = super().encode(batch)
        made[["poisoned" in text for text in batch]] = np.nan
        return made

"""The production fake: content to a unit vector by hashing, for dry tours, tests and measurements."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from encoders.errors import EncoderUnusable
from encoders.protocol import Tokenizer, Tokens
from encoders.spec import EncoderFacts, EncoderSpec, Modality

_MAX_TOKENS = 512
_WORD = re.compile(r"\w+|[^\w\s]")
_RATE = 8_000
_SIDE, _BLOCKS = 8, 64


def describe(spec: EncoderSpec) -> EncoderFacts:
    """The facts of `fake:DIM`; its spec alone is its fingerprint."""
    _, _, dim = spec.model.partition(":")
    if not dim.isdecimal() or not 1 <= int(dim) <= 8192:
        raise EncoderUnusable(f"model {spec.model!r}: expected fake:DIM with 1 to 8192 dims, as fake:64")
    if spec.layers is not None:
        raise EncoderUnusable(f"model {spec.model!r} has no layers; remove `layers: {spec.layers}`")
    length = min(int(dim), spec.truncate_dim or int(dim))
    moving = spec.model_dump_json(exclude={"model", "revision"})
    fingerprint = hashlib.sha256(f"fake:{dim}:1:{moving}".encode()).hexdigest()
    return EncoderFacts(
        fingerprint=fingerprint,
        space_id=f"fake_{length}_{fingerprint[:8]}",
        dim=length,
        max_tokens=spec.max_tokens or _MAX_TOKENS,
        tokenizer_hash=FakeTokenizer.hash,
        document_prompt=spec.document_prompt or "",
        query_prompt=spec.query_prompt or "",
        folder=None,
        tokenizer_folder=None,
        modality=spec.modality,
        queries=(spec.modality,),
    )


class FakeEncoder:
    """Equal texts get equal vectors, different texts nearly orthogonal ones; meaning is ignored."""

    def __init__(self, facts: EncoderFacts) -> None:
        self.facts = facts
        self.tokenizer: Tokenizer = FakeTokenizer()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self._vectors(self.facts.document_prompt, texts)

    def encode_query(self, text: str) -> np.ndarray:
        vector: np.ndarray = self._vectors(self.facts.query_prompt, [text])[0]
        return vector

    def _vectors(self, prompt: str, texts: Sequence[str]) -> np.ndarray:
        return _hashed(((prompt + t).encode() for t in texts), self.facts.dim)


class FakePreparer:
    """Reduces an image to 8 × 8 pixels and audio to 64 sums: float32, equal on every machine."""

    least = 1

    def __init__(self, modality: Modality) -> None:
        self.rate = _RATE if modality == "audio" else 0

    def prepare(self, decoded: Any) -> np.ndarray:
        """(8, 8, 3) of an image, (64,) of samples; whole numbers, so that no rounding differs."""
        if self.rate:
            whole = np.rint(np.asarray(decoded, np.float64) * 2**15).astype(np.int64)
            parts = np.array_split(whole, _BLOCKS)
            return np.array([np.abs(p).sum() + p.sum() for p in parts], dtype=np.float32)
        from PIL import Image  # not for texts

        return np.asarray(decoded.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32)


class FakeMediaEncoder:
    """Equal inputs get equal vectors, different inputs nearly orthogonal ones; it is not joint."""

    def __init__(self, facts: EncoderFacts) -> None:
        self.facts = facts

    def encode(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        return _hashed((np.asarray(i, dtype="<f4").tobytes() for i in inputs), self.facts.dim)

    def encode_query(self, text: str) -> np.ndarray:
        raise EncoderUnusable(
            f"{self.facts.space_id} knows no texts: it can only be searched by {self.facts.modality}"
        )


def _hashed(contents: Iterable[bytes], dim: int) -> np.ndarray:
    """A unit vector of each content, float32 (n, dim)."""
    digests = b"".join(hashlib.shake_128(c).digest(2 * dim) for c in contents)
    raw = np.frombuffer(digests, dtype="<i2").reshape(-1, dim).astype(np.float32) + 0.5
    unit: np.ndarray = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return unit


class FakeTokenizer:
    """Words and punctuation marks."""

    special_tokens = 0
    hash = hashlib.sha256(f"fake:{_WORD.pattern}".encode()).hexdigest()

    def tokens(self, text: str) -> Tokens:
        spans = [m.span() for m in _WORD.finditer(text)]
        offsets = np.array(spans, dtype=np.int64).reshape(-1, 2)
        return Tokens(offsets[:, 0], offsets[:, 1], np.ones(len(spans), dtype=bool))

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(_WORD.findall(t)) for t in texts]

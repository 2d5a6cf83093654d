"""The production fake: text to a unit vector by hashing, for dry tours, tests and measuring the pipeline."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from encoders.errors import EncoderUnusable
from encoders.protocol import Tokenizer, Tokens
from encoders.spec import EncoderFacts, EncoderSpec

_MAX_TOKENS = 512
_WORD = re.compile(r"\w+|[^\w\s]")


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
        tokenizer_hash=hashlib.sha256(f"fake:{_WORD.pattern}".encode()).hexdigest(),
        document_prompt=spec.document_prompt or "",
        query_prompt=spec.query_prompt or "",
        folder=None,
        tokenizer_folder=None,
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
        dim = self.facts.dim
        digests = b"".join(hashlib.shake_128((prompt + t).encode()).digest(2 * dim) for t in texts)
        raw = np.frombuffer(digests, dtype="<i2").reshape(len(texts), dim).astype(np.float32) + 0.5
        unit: np.ndarray = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        return unit


class FakeTokenizer:
    """Words and punctuation marks."""

    special_tokens = 0

    def tokens(self, text: str) -> Tokens:
        spans = [m.span() for m in _WORD.finditer(text)]
        offsets = np.array(spans, dtype=np.int64).reshape(-1, 2)
        return Tokens(offsets[:, 0], offsets[:, 1], np.ones(len(spans), dtype=bool))

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(_WORD.findall(t)) for t in texts]

"""The contract of an encoder, of its tokenizer and of what prepares media for it; all else is duck-typed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from encoders.spec import EncoderFacts


@dataclass(frozen=True)
class Tokens:
    """Where the tokens of a text lie: code point offsets, int64, in order.

    `word_start[i]` says that token i begins a word, so that a cut before it splits none.
    """

    start: np.ndarray
    end: np.ndarray
    word_start: np.ndarray


class Tokenizer(Protocol):
    """The encoder's own view of a text."""

    special_tokens: int
    """Tokens that the encoder adds around every input."""

    def tokens(self, text: str) -> Tokens:
        """Tokens of the whole text, without special ones and without truncation."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones and without truncation."""
        ...


class Encoder(Protocol):
    """A loaded encoder of texts."""

    facts: EncoderFacts
    tokenizer: Tokenizer

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of documents, float32 (n, dim), in the order of `texts`."""
        ...

    def encode_query(self, text: str) -> np.ndarray:
        """The vector of a query, float32 (dim,)."""
        ...


class Preparer(Protocol):
    """Turns decoded media into what an encoder takes; has no weights, so every worker can have one."""

    least: int
    """For images: the shorter side in pixels below which detail would be lost; larger ones may be reduced."""

    rate: int
    """For audio: samples per second that the encoder expects; 0 for images."""

    def prepare(self, decoded: Any) -> np.ndarray:
        """The input of one chunk: from a `PIL.Image` in RGB, or mono float32 samples at `rate`."""
        ...


class MediaEncoder(Protocol):
    """A loaded encoder of images or audio."""

    facts: EncoderFacts

    def encode(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors, float32 (n, dim), of what its `Preparer` made, in the order of `inputs`."""
        ...

    def encode_query(self, text: str) -> np.ndarray:
        """The vector of a text, float32 (dim,); raises `EncoderUnusable` unless the encoder is joint."""
        ...

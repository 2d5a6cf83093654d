"""The contract of an encoder and of its tokenizer; everything below is duck-typed against it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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
    """A loaded encoder."""

    facts: EncoderFacts
    tokenizer: Tokenizer

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of documents, float32 (n, dim), in the order of `texts`."""
        ...

    def encode_query(self, text: str) -> np.ndarray:
        """The vector of a query, float32 (dim,)."""
        ...

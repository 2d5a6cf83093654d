"""Cutting a text into the pieces that get one vector each, by the encoder's own tokens."""

import hashlib

import numpy as np
import regex

from encoders.errors import EncoderUnusable, Unchunkable
from encoders.protocol import Tokenizer, Tokens
from encoders.spec import Chunking

_CLUSTER = regex.compile(r"\X")
_LOOK_BACK = 64


class Chunker:
    """Applies a chunking."""

    def __init__(self, chunking: Chunking, tokenizer: Tokenizer, prompt: str = "") -> None:
        self._tokenizer = tokenizer
        reserved = tokenizer.special_tokens + (tokenizer.count([prompt])[0] if prompt else 0)
        self.budget = chunking.max_tokens - reserved
        """Tokens of the text itself that fit into one chunk."""
        if self.budget < 1:
            raise EncoderUnusable(
                f"chunk.max_tokens {chunking.max_tokens} leaves no room beside {reserved} special and "
                "prompt tokens; raise it"
            )
        self._overlap = min(chunking.overlap, self.budget // 2)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Spans (start, end) in code points, ascending; raises `Unchunkable` if no token is in the text.

        Guaranteed: every character that the tokenizer sees is in a span; no span has more tokens than
        the budget when it is tokenized alone; no cut falls inside a user-perceived character
        (grapheme cluster) unless one alone exceeds the budget, nor inside a word where avoidable.
        """
        tokens = self._tokenizer.tokens(text)
        if len(tokens.start) == 0:
            raise Unchunkable("no token of the encoder's vocabulary is in the text")
        if len(tokens.start) <= self.budget:
            return [(0, len(text))]
        # Cut out and tokenized alone, a piece can have a few more tokens than it had in its context
        # (a leading space, a word cut in two): cut shorter until every piece fits.
        budget = self.budget
        while True:
            spans = self._cut(text, tokens, budget)
            excess = max(self._tokenizer.count([text[a:b] for a, b in spans])) - self.budget
            if excess <= 0 or budget == 1:
                return spans
            budget = max(1, budget - excess)

    def _cut(self, text: str, tokens: Tokens, budget: int) -> list[tuple[int, int]]:
        overlap = min(self._overlap, budget // 2)
        spans, first, start, n = [], 0, 0, len(tokens.start)
        while first + budget < n:
            after, cut = self._boundary(text, tokens, first, first + budget)
            spans.append((start, _without_trailing_space(text, start, cut)))
            first, start = self._restart(text, tokens, first, after, overlap)
        spans.append((start, len(text)))
        return spans

    def _boundary(self, text: str, tokens: Tokens, first: int, after: int) -> tuple[int, int]:
        """The last good cut in (first, after]: (token after the cut, its character)."""
        words = np.flatnonzero(tokens.word_start[first + 1 : after + 1])
        for token in [first + 1 + int(w) for w in words[: -_LOOK_BACK - 1 : -1]]:
            if _between_clusters(text, int(tokens.start[token])):
                return token, int(tokens.start[token])
        for token in range(after, first, -1):  # one word longer than a chunk
            if _between_clusters(text, int(tokens.start[token])):
                return token, int(tokens.start[token])
        return after, max(int(tokens.start[after]), int(tokens.start[first]) + 1)

    def _restart(self, text: str, tokens: Tokens, first: int, after: int, overlap: int) -> tuple[int, int]:
        """Where the next chunk begins: up to `overlap` tokens before the cut, at a good boundary."""
        for token in range(max(after - overlap, first + 1), after):
            at = int(tokens.start[token])
            if tokens.word_start[token] and _between_clusters(text, at):
                return token, at
        return after, int(tokens.start[after])


def chunk_hash(text: str) -> bytes:
    """Key of a chunk's content: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(text.encode()).digest()[:16]


def _between_clusters(text: str, at: int) -> bool:
    """Whether `at` is not inside a grapheme cluster (a letter and its marks, a joined emoji)."""
    begin = max(0, at - _LOOK_BACK)
    for cluster in _CLUSTER.finditer(text, begin, at + _LOOK_BACK):
        if cluster.start() >= at:
            return True
        if cluster.end() > at:
            return False
    return True


def _without_trailing_space(text: str, start: int, end: int) -> int:
    while end > start + 1 and text[end - 1].isspace():
        end -= 1
    return end

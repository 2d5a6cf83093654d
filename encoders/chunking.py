"""Cutting a text into the pieces that get one vector each, by the encoder's own tokens."""

import hashlib

import numpy as np
import regex

from encoders.errors import EncoderUnusable, Unchunkable
from encoders.protocol import Tokenizer, Tokens
from encoders.spec import TokenChunking

_CLUSTER = regex.compile(r"\X")
_LOOK_BACK = 64


class Chunker:
    """Applies a chunking."""

    def __init__(self, chunking: TokenChunking, tokenizer: Tokenizer, prompt: str = "") -> None:
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
            counts = self._tokenizer.count([text[a:b] for a, b in spans])
            # a single character is never cut, however many tokens it is
            excess = (
                max((n for n, (a, b) in zip(counts, spans, strict=True) if b - a > 1), default=0)
                - self.budget
            )
            if excess <= 0 or budget == 1:
                return _telling(text, spans)
            budget = max(1, budget - excess)

    def _cut(self, text: str, tokens: Tokens, budget: int) -> list[tuple[int, int]]:
        overlap = min(self._overlap, budget // 2)
        whole = _begins_character(tokens)
        spans, first, done, n = [], 0, 0, len(tokens.start)
        while first + budget < n:
            cut = self._word_boundary(text, tokens, whole, done, first + budget)
            if cut is None and first < done:
                first = done  # no room for an overlap: the chunk would reach nothing new
                continue
            if cut is None:
                cut = self._inner_boundary(text, tokens, whole, first, first + budget)
            if cut == n:
                break
            start = int(tokens.start[first]) if first else 0
            spans.append((start, _without_trailing_space(text, start, int(tokens.start[cut]))))
            first, done = self._restart(text, tokens, whole, first, cut, overlap), cut
        spans.append((int(tokens.start[first]) if first else 0, len(text)))
        return spans

    def _word_boundary(
        self, text: str, tokens: Tokens, whole: np.ndarray, done: int, limit: int
    ) -> int | None:
        """The last token in (done, limit] that begins a word."""
        words = np.flatnonzero(tokens.word_start[done + 1 : limit + 1] & whole[done + 1 : limit + 1])
        for token in [done + 1 + int(w) for w in words[: -_LOOK_BACK - 1 : -1]]:
            if _between_clusters(text, int(tokens.start[token])):
                return token
        return None

    def _inner_boundary(self, text: str, tokens: Tokens, whole: np.ndarray, first: int, limit: int) -> int:
        """Where to cut a word longer than a chunk: between clusters, else between characters."""
        n = len(tokens.start)
        good = [t for t in range(first + 1, min(first + self.budget, n - 1) + 1) if whole[t]]
        for token in [t for t in reversed(good) if t <= limit] + [t for t in good if t > limit]:
            at = int(tokens.start[token])
            if _between_clusters(text, at) and (
                token <= limit
                or self._tokenizer.count([text[int(tokens.start[first]) : at]])[0] <= self.budget
            ):
                return token
        inside = [t for t in good if t <= limit]
        if inside:
            return inside[-1]
        later = np.flatnonzero(whole[first + 1 :])
        return first + 1 + int(later[0]) if len(later) else n

    def _restart(
        self, text: str, tokens: Tokens, whole: np.ndarray, first: int, cut: int, overlap: int
    ) -> int:
        """Where the next chunk begins: up to `overlap` tokens before the cut, at a good boundary."""
        for token in range(max(cut - overlap, first + 1), cut):
            if (
                tokens.word_start[token]
                and whole[token]
                and _between_clusters(text, int(tokens.start[token]))
            ):
                return token
        return cut


def _begins_character(tokens: Tokens) -> np.ndarray:
    """Which tokens begin a character: byte-level tokenizers give several to one."""
    begins = np.ones(len(tokens.start), dtype=bool)
    begins[1:] = tokens.start[1:] >= np.maximum.accumulate(tokens.end)[:-1]
    return begins


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


def _telling(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans without those that hold only white space, or nothing that the one before does not."""
    kept: list[tuple[int, int]] = []
    for start, end in spans:
        if text[start:end].strip() and (not kept or end > kept[-1][1]):
            kept.append((start, end))
    return kept or spans[:1]


def _without_trailing_space(text: str, start: int, end: int) -> int:
    while end > start + 1 and text[end - 1].isspace():
        end -= 1
    return end

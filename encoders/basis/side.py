"""Side features: what the tokens of a text say by themselves, for almost nothing.

A transformer begins with a table of one vector per token. Pooled over a text they cost a lookup beside the
encoder's products, and still tell apart, in the new encoder's own terms, what the old vectors do not. They
join the vectors that a basis carries, as the side features of images do in FCT (arXiv 2112.02805).

A vector is three unit vectors in a row: the mean over the tokens, in which frequent tokens weigh less (SIF:
Arora, Liang & Ma 2017, "A simple but tough-to-beat baseline for sentence embeddings"), and the greatest and
the least of each number over the tokens.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open

from encoders.files import modules_of
from encoders.spec import EncoderFacts, EncoderSpec
from encoders.tokens import ModelTokenizer

MEANING = 1
"""Raise when a change of this code changes the features that the same text gets."""

WIDEST = 384
"""Columns of the table that stand apart; more are added up with signs into as many (a count sketch)."""

_TABLES = (
    "word_embeddings.weight",
    "word_embedding.weight",
    "tok_embeddings.weight",
    "embed_tokens.weight",
    "shared.weight",
    "wte.weight",
)
"""How the names end under which transformers store the table."""

_COMMON = 1e-3
"""The probability of a token at which its weight is a half: SIF's a."""


class StaticTokens:
    """The pooled token vectors of one encoder. Equal fingerprints give equal features."""

    def __init__(self, table: np.ndarray, tokenizer: ModelTokenizer, facts: EncoderFacts) -> None:
        self._table = _folded(table)
        self._tokenizer = tokenizer
        self._weights = _weights(tokenizer.vocabulary(), len(table))
        self._longest = facts.max_tokens - tokenizer.special_tokens
        self.dim = 3 * self._table.shape[1]
        self.fingerprint = hashlib.sha256(f"static-tokens:{MEANING}:{facts.fingerprint}".encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Features of texts, float32 (n, dim), in their order; zero for a text without tokens.

        Tokens beyond those that the encoder would read are left out, as its prompts are.
        """
        out = np.zeros((len(texts), 3, self._table.shape[1]), dtype=np.float32)
        for row, found in enumerate(self._tokenizer.ids(texts)):
            if not found:
                continue
            ids = np.array(found[: self._longest])
            vectors = self._table[ids]
            out[row, 0] = self._weights[ids] @ vectors
            vectors.max(axis=0, out=out[row, 1])
            vectors.min(axis=0, out=out[row, 2])
        norms = np.linalg.norm(out, axis=2, keepdims=True)
        out /= np.maximum(norms, np.finfo(np.float32).tiny)
        return out.reshape(len(texts), self.dim)


def open_side(spec: EncoderSpec, facts: EncoderFacts) -> StaticTokens | None:
    """The static tokens of an encoder of texts; None if it has no table of token vectors in its files."""
    if spec.modality != "text" or facts.folder is None or facts.tokenizer_folder is None:
        return None
    kind, base = modules_of(facts.folder)[0]
    table = None if kind == "StaticEmbedding" else _table(base)
    return None if table is None else StaticTokens(table, ModelTokenizer(facts.tokenizer_folder), facts)


def _table(folder: Path) -> np.ndarray | None:
    """The vectors of the tokens, float32 (tokens, width), as the weights hold them."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as weights:
            names = [name for name in weights.keys() if name.endswith(_TABLES)]  # noqa: SIM118 - no mapping
            if not names:
                continue
            if weights.get_slice(names[0]).get_dtype() != "BF16":
                return np.asarray(weights.get_tensor(names[0]), dtype=np.float32)
        with safe_open(file, framework="pt") as weights:  # numpy has no bf16
            table: np.ndarray = weights.get_tensor(names[0]).float().numpy()
            return table
    return None


def _folded(table: np.ndarray) -> np.ndarray:
    if table.shape[1] <= WIDEST:
        return table
    drawn = hashlib.shake_256(b"static-tokens").digest(table.shape[1])
    signs = np.where(np.frombuffer(drawn, dtype=np.uint8) & 1, np.float32(1), np.float32(-1))
    folded = np.zeros((len(table), WIDEST), dtype=np.float32)
    for start in range(0, table.shape[1], WIDEST):
        part = slice(start, start + WIDEST)
        columns = table[:, part] * signs[part]
        folded[:, : columns.shape[1]] += columns
    return folded


def _weights(vocabulary: dict[str, int], rows: int) -> np.ndarray:
    """SIF's a / (a + p) of every token, float32 (rows,), p by Zipf's law from its place in the vocabulary.

    Vocabularies are listed by frequency, but for special tokens, which come first and do not count, and
    single letters of all scripts, which come next: those beyond ASCII go to the end.
    """
    numbers = {i: token for token, i in vocabulary.items() if i < rows}
    ordinary = [i for i in sorted(numbers) if not _is_special(numbers[i])]
    ordinary.sort(key=lambda i: len(numbers[i]) == 1 and not numbers[i].isascii())
    rank = np.full(rows, len(ordinary) + 1, dtype=np.float64)
    rank[ordinary] = np.arange(1, len(ordinary) + 1)
    probability = 1 / ((rank + 10) * np.log(len(ordinary) + 2))
    weights: np.ndarray = (_COMMON / (_COMMON + probability)).astype(np.float32)
    return weights


def _is_special(token: str) -> bool:
    return len(token) > 2 and (token[0], token[-1]) in (("[", "]"), ("<", ">"))

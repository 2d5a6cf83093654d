"""Real MiniLM weights, and small models of random weights, against sentence-transformers' own `encode`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer, BertConfig, BertModel

from encoders import files
from encoders.backbone import SAME_SPACE, cosines
from encoders.batching import pack
from encoders.errors import BadVector, EncoderUnusable
from encoders.spec import EncoderSpec
from encoders.text import TOKENS_PER_PASS, TextEncoder

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vectors.json").read_text(encoding="utf-8"))[
    "golden"
]
MIXED = [
    "short",
    "A sentence of middling length about reading files line by line in Python.",
    "Grüße aus Zürich, 東京, Ελλάδα, 🙂",
    *(f"Document number {n} talks about topic {n % 5}. " * (1 + 7 * n % 19) for n in range(16)),
    "the last one",
]


def encoder(spec: EncoderSpec, precision: str = "fp32") -> TextEncoder:
    facts = files.describe(spec, files.HashCache(None))
    return TextEncoder(spec, facts, device="cpu", threads=1, precision=precision)


def reference(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, minilm_folder: Path) -> Path:
    """A bare transformer folder: a small BERT of random weights with MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(bert: Path, tmp_path: Path) -> Callable[..., Path]:
    """Save a small model with pooling and further modules, as sentence-transformers itself writes it."""

    def save(*modules: torch.nn.Module, pooling: Pooling | None = None, **settings: object) -> Path:
        transformer = Transformer(str(bert), max_seq_length=48)
        stack = [transformer, pooling or Pooling(32, "mean"), *modules]
        model = SentenceTransformer(modules=stack, device="cpu", **settings)
        model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
        return tmp_path / "model"

    return save


def dense(width: int) -> Dense:
    torch.manual_seed(1)
    return Dense(32, width)


@pytest.mark.parametrize("golden", GOLDEN, ids=[g["text"][:12] for g in GOLDEN])
def test_golden_components_in_fp32(exact: TextEncoder, golden: dict):
    """In fp32 the components are those of the reference implementation within 1e-3."""
    vector = exact.encode([golden["text"]])[0]
    np.testing.assert_allclose(vector[:5], golden["first"], atol=1e-3)
    np.testing.assert_allclose(vector, golden["vector"], atol=1e-3)


def test_golden_directions_in_any_precision(auto: TextEncoder):
    """In the precision that the machine chooses, whole vectors point where the reference's do."""
    found = auto.encode([g["text"] for g in GOLDEN])
    assert cosines(found, np.array([g["vector"] for g in GOLDEN])).min() >= SAME_SPACE


def test_precision_is_what_was_asked_for(exact: TextEncoder, auto: TextEncoder):
    """fp32 is kept if asked for; bf16 is chosen only where the CPU has the instructions."""
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    assert exact.precision == "fp32"
    assert auto.precision == ("bf16" if has_bf16 else "fp32")


def test_query_and_document_agree(exact: TextEncoder):
    """Without prompts a query is where the equal document is."""
    np.testing.assert_allclose(exact.encode_query("hello"), exact.encode(["hello"])[0], atol=1e-6)
    assert exact.encode_query("hello").shape == (384,)


def test_order_of_input_is_kept(exact: TextEncoder):
    """Vectors come back in the order of the texts, whatever order they were encoded in."""
    lengths = exact.tokenizer.count(MIXED)
    assert len(list(pack(lengths, TOKENS_PER_PASS["cpu"]))) > 1
    assert lengths != sorted(lengths)
    order = np.random.default_rng(3).permutation(len(MIXED))
    permuted = exact.encode([MIXED[i] for i in order])
    np.testing.assert_allclose(permuted, exact.encode(MIXED)[order], atol=1e-5)


def test_equal_to_the_reference_over_batches(exact: TextEncoder, minilm_folder: Path):
    """Many texts of mixed length, some beyond the limit, give what sentence-transformers gives."""
    texts = [*MIXED[::3], "word " * 400]
    np.testing.assert_allclose(exact.encode(texts), reference(minilm_folder).encode(texts), atol=1e-5)


@pytest.mark.parametrize("name", ["exact", "auto"])
def test_neighbours_do_not_matter(name: str, request: pytest.FixtureRequest):
    """A text has the same vector alone, beside equals and padded beside longer ones."""
    model: TextEncoder = request.getfixturevalue(name)
    together = model.encode(MIXED)
    for at in (0, 1, 2, len(MIXED) - 1):
        alone = model.encode([MIXED[at]])
        padded = model.encode([MIXED[at], max(MIXED, key=len)])[:1]
        assert cosines(together[at : at + 1], alone)[0] >= SAME_SPACE
        assert cosines(padded, alone)[0] >= SAME_SPACE


@pytest.mark.parametrize("name", ["exact", "auto"])
def test_unit_norm(name: str, request: pytest.FixtureRequest):
    """A model that normalises gives float32 vectors of norm 1 in any precision."""
    vectors = request.getfixturevalue(name).encode(MIXED[:9])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_nothing_in_nothing_out(exact: TextEncoder):
    """No texts give an array of no rows and the right width."""
    assert exact.encode([]).shape == (0, 384)


def test_early_exit(minilm: EncoderSpec, minilm_folder: Path):
    """`layers: 3` is the model with its layer list cut after three, in a space of its own."""
    short = encoder(minilm.model_copy(update={"layers": 3}))
    cut = reference(minilm_folder)
    backbone = cut.transformers_model
    backbone.encoder.layer = backbone.encoder.layer[:3]
    np.testing.assert_allclose(short.encode(MIXED[:9]), cut.encode(MIXED[:9]), atol=1e-5)
    assert short.facts.space_id.startswith("bert3_384_")


def test_truncated_dims(minilm: EncoderSpec, exact: TextEncoder):
    """truncate_dim keeps the leading components, at norm 1 again, for documents and queries."""
    short = encoder(minilm.model_copy(update={"truncate_dim": 64}))
    leading = exact.encode(MIXED[:9])[:, :64]
    expected = leading / np.linalg.norm(leading, axis=1, keepdims=True)
    np.testing.assert_allclose(short.encode(MIXED[:9]), expected, atol=1e-5)
    np.testing.assert_allclose(short.encode_query(MIXED[0]), expected[0], atol=1e-5)
    assert short.facts.dim == 64


def test_own_prompts(minilm: EncoderSpec, exact: TextEncoder):
    """Prompts of the spec stand before documents and before queries, and nowhere else."""
    prompted = encoder(minilm.model_copy(update={"document_prompt": "passage: ", "query_prompt": "query: "}))
    np.testing.assert_allclose(prompted.encode(["hello"]), exact.encode(["passage: hello"]), atol=1e-5)
    np.testing.assert_allclose(prompted.encode_query("hello"), exact.encode(["query: hello"])[0], atol=1e-5)


def test_lower_limit_truncates(minilm: EncoderSpec, minilm_folder: Path):
    """`max_tokens` cuts the input as the reference does with the same limit."""
    short = encoder(minilm.model_copy(update={"max_tokens": 16}))
    cut = reference(minilm_folder)
    cut.max_seq_length = 16
    text = "The quick brown fox jumps over the lazy dog and then sleeps for the rest of the day. " * 3
    np.testing.assert_allclose(short.encode([text]), cut.encode([text]), atol=1e-5)
    assert short.facts.max_tokens == 16


@pytest.mark.parametrize("include_prompt", [True, False])
def test_saved_model_with_dense_and_prompts(saved, include_prompt: bool):
    """A saved model with a Dense module and prompts gives what encode_document and encode_query give."""
    pooling = Pooling(32, "mean", include_prompt=include_prompt)
    prompts = {"query": "query: ", "document": "passage: "}
    folder = saved(dense(16), pooling=pooling, prompts=prompts)
    ours, theirs = encoder(EncoderSpec(model=str(folder))), reference(folder)
    facts = ours.facts
    assert (facts.dim, facts.max_tokens) == (16, 48)
    assert (facts.document_prompt, facts.query_prompt) == ("passage: ", "query: ")
    np.testing.assert_allclose(ours.encode(MIXED[:9]), theirs.encode_document(MIXED[:9]), atol=1e-5)
    np.testing.assert_allclose(ours.encode_query("what?"), theirs.encode_query("what?"), atol=1e-5)
    assert not np.allclose(ours.encode_query("what?"), ours.encode(["what?"])[0], atol=1e-3)


def test_norms_are_the_models_own(saved):
    """Without a Normalize module the length of a vector is left as the model gives it."""
    folder = saved(dense(16))
    vectors = encoder(EncoderSpec(model=str(folder))).encode(MIXED[:9])
    np.testing.assert_allclose(vectors, reference(folder).encode(MIXED[:9]), atol=1e-5)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > 0.01


@pytest.mark.parametrize("mode", ["cls", "max", ("mean", "max")], ids=["cls", "max", "mean and max"])
def test_pooling(saved, mode):
    """Each pooling, and several at once, gives the declared dims and the reference's vectors."""
    folder = saved(Normalize(), pooling=Pooling(32, mode))
    ours = encoder(EncoderSpec(model=str(folder)))
    assert ours.facts.dim == (64 if isinstance(mode, tuple) else 32)
    np.testing.assert_allclose(ours.encode(MIXED[:9]), reference(folder).encode(MIXED[:9]), atol=1e-5)


def test_bare_transformer(bert: Path):
    """A folder of a plain transformer gets sentence-transformers' default: mean pooling."""
    ours = encoder(EncoderSpec(model=str(bert)))
    assert (ours.facts.dim, ours.facts.max_tokens) == (32, 64)
    np.testing.assert_allclose(ours.encode(MIXED[:9]), reference(bert).encode(MIXED[:9]), atol=1e-5)


def test_static_embedding(tmp_path: Path, minilm_folder: Path):
    """A model that only looks tokens up has no layers, and the dims of its table."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    torch.manual_seed(2)
    table = StaticEmbedding(Tokenizer.from_file(str(minilm_folder / "tokenizer.json")), embedding_dim=24)
    SentenceTransformer(modules=[table], device="cpu").save_pretrained(str(tmp_path), create_model_card=False)
    ours = encoder(EncoderSpec(model=str(tmp_path)))
    assert ours.facts.dim == 24
    np.testing.assert_allclose(ours.encode(MIXED[:9]), reference(tmp_path).encode(MIXED[:9]), atol=1e-5)


def test_bf16_is_refused_where_it_moves_vectors(saved):
    """A model whose weights differ only beyond bf16's digits runs in fp32, with its weights restored."""
    fragile = dense(16)
    with torch.no_grad():
        fragile.linear.weight.copy_(1 + 1e-3 * torch.randn(16, 32))
        fragile.linear.bias.zero_()
    fragile.activation_function = torch.nn.Identity()
    folder = saved(fragile, Normalize())
    spec = EncoderSpec(model=str(folder))
    chosen = encoder(spec, precision="auto")
    assert chosen.precision == "fp32"
    np.testing.assert_allclose(chosen.encode(MIXED[:9]), encoder(spec).encode(MIXED[:9]), atol=1e-6)


def test_mixed_folder_is_refused(saved):
    """A folder whose configuration contradicts its weights is refused, and not used at the wrong width."""
    folder = saved(dense(16))
    config = folder / "2_Dense" / "config.json"
    config.write_text(config.read_text().replace('"out_features": 16', '"out_features": 20'))
    with pytest.raises(EncoderUnusable, match="cannot be loaded"):
        encoder(EncoderSpec(model=str(folder)))


def test_pooling_of_another_width_is_refused(saved):
    """A pooling that promises more dims than the transformer has is refused."""
    folder = saved()
    config = folder / "1_Pooling" / "config.json"
    config.write_text(config.read_text().replace(": 32", ": 48"))
    with pytest.raises(EncoderUnusable, match="gives vectors of 32 dims, its configuration says 48"):
        encoder(EncoderSpec(model=str(folder)))


def test_torn_weights_are_refused(saved):
    """Weights that were copied half are an `EncoderUnusable` naming the model."""
    folder = saved()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])
    with pytest.raises(EncoderUnusable, match="cannot be loaded") as raised:
        encoder(EncoderSpec(model=str(folder)))
    assert str(folder) in str(raised.value)


def test_pickled_module_is_refused(saved):
    """Weights of a later module in a pickle are refused, though the transformer's are safetensors."""
    folder = saved(dense(16))
    weights = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(EncoderUnusable, match="safetensors"):
        encoder(EncoderSpec(model=str(folder)))


def test_remote_code_stays_off(saved):
    """A folder that asks for code of its own is refused, and its code is not run."""
    folder = saved()
    marker = folder / "was_run"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
    config["model_type"] = "own"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderUnusable):
        encoder(EncoderSpec(model=str(folder)))
    assert not marker.exists()


def test_layers_of_a_small_model(saved):
    """An early exit of one layer equals a model saved with one layer."""
    folder = saved(Normalize())
    short = encoder(EncoderSpec(model=str(folder), layers=1))
    cut = folder.with_name("cut")
    shutil.copytree(folder, cut)
    weights = load_file(cut / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "layer.1." not in k}, cut / "model.safetensors", {"format": "pt"}
    )
    config = json.loads((cut / "config.json").read_text())
    (cut / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    np.testing.assert_allclose(
        short.encode(MIXED[:9]), encoder(EncoderSpec(model=str(cut))).encode(MIXED[:9]), atol=1e-6
    )


def test_cosines_refuse_vectors_without_direction():
    """A zero or NaN vector out of an encoder is a `BadVector` of stage encode, not a number."""
    fine = np.ones((2, 4), np.float32)
    assert cosines(fine, fine).tolist() == [1, 1]
    for bad in (0.0, np.nan):
        broken = fine.copy()
        broken[1] = bad
        with pytest.raises(BadVector) as raised:
            cosines(fine, broken)
        assert raised.value.stage == "encode"

"""Models of images and audio: small ones of random weights, against the library itself."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from encoders import catalog, files
from encoders.backbone import SAME_SPACE, cosines
from encoders.errors import EncoderNotFound, EncoderUnusable
from encoders.families import FAMILIES, family_of
from encoders.loaded import LoadedMediaEncoder
from encoders.processors import MediaPreparer
from encoders.spec import EncoderFacts, EncoderSpec
from tests.encoders import small_models

ALONE = [n for n in small_models.NAMES if n not in small_models.JOINT]


@dataclass
class Opened:
    spec: EncoderSpec
    facts: EncoderFacts
    preparer: MediaPreparer
    encoder: LoadedMediaEncoder


def describe(folder: Path | str, modality: str, **settings: object) -> EncoderFacts:
    return catalog.describe(
        EncoderSpec(model=str(folder), modality=modality, **settings), files.HashCache(None)
    )


def open_folder(folder: Path, modality: str, **settings: object) -> Opened:
    spec = EncoderSpec(model=str(folder), modality=modality, **settings)
    facts = catalog.describe(spec, files.HashCache(None))
    encoder = catalog.open_media_encoder(spec, facts, device="cpu", threads=1)
    assert isinstance(encoder, LoadedMediaEncoder)
    preparer = catalog.open_preparer(spec, facts)
    assert isinstance(preparer, MediaPreparer)
    return Opened(spec, facts, preparer, encoder)


def modality_of(name: str) -> str:
    return "image" if name in small_models.IMAGE else "audio"


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small model, written at its first use; not to be altered."""
    root = tmp_path_factory.mktemp("small")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            small_models.write(name, root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def opened(written) -> Callable[[str], Opened]:
    """A small model, loaded at its first use."""
    known: dict[str, Opened] = {}

    def model(name: str) -> Opened:
        if name not in known:
            known[name] = open_folder(written(name), modality_of(name))
        return known[name]

    return model


@pytest.fixture
def altered(written, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the folder of a small model that a test may alter."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(written(name), tmp_path / name))

    return copy


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def chunks(model: Opened) -> list[Any]:
    """Decoded images of several aspect ratios, or windows of several lengths."""
    random = np.random.default_rng(5)
    if model.facts.modality == "image":
        shapes = [(40, 50), (64, 20), (32, 32), (40, 50), (20, 90)]
        return [Image.fromarray(random.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in shapes]
    seconds = (0.5, 0.31, 0.5, 0.12, 0.4)
    at = [np.arange(int(model.preparer.rate * s)) / model.preparer.rate for s in seconds]
    waves = [np.sin(2 * np.pi * f * t) for f, t in zip((200, 700, 1_500, 90, 400), at, strict=True)]
    return [(0.3 * w + 0.1 * random.standard_normal(len(w))).astype(np.float32) for w in waves]


def inputs(model: Opened) -> list[np.ndarray]:
    return [model.preparer.prepare(c) for c in chunks(model)]


def unit(vectors: Any) -> np.ndarray:
    array = np.asarray(vectors)
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


@torch.inference_mode()
def by_the_library(name: str, model: Opened, chunk: Any) -> np.ndarray:
    """The vector of one chunk, as the documentation of transformers says to make it."""
    folder = str(model.facts.folder)
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    if model.facts.modality == "image":
        library = transformers.ViTImageProcessorPil if name == "dinov3" else transformers.AutoImageProcessor
        made = library.from_pretrained(folder)(images=chunk, return_tensors="pt")
    else:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        made = extractor(chunk, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    if name == "clap_fused":
        made["is_longer"] = torch.tensor([[False]])
    if name in small_models.JOINT:
        output = getattr(reference, f"get_{model.facts.modality}_features")(**made)
        return unit(output.pooler_output[0])
    output = reference(**made)
    if name in ("siglip_vision", "dinov2", "dinov3", "dinov3_convnext", "ast"):
        return unit(output.pooler_output[0])
    states = output.last_hidden_state[0]
    return unit(states[0] if name == "vit" else states.mean(dim=0))


@pytest.mark.parametrize("name", small_models.NAMES)
def test_what_is_described_is_what_is_loaded(name, opened):
    """Dims, modality and queries are read from the files as the loaded model has them."""
    model = opened(name)
    vectors = model.encoder.encode(inputs(model))
    assert (vectors.dtype, vectors.shape) == (np.float32, (5, model.facts.dim))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    modality = modality_of(name)
    assert model.facts.modality == modality
    assert model.facts.queries == ((modality, "text") if name in small_models.JOINT else (modality,))
    assert model.facts.space_id.endswith(f"_{model.facts.dim}_{model.facts.fingerprint[:8]}")
    assert (model.preparer.rate > 0, model.preparer.least > 0) == (modality == "audio", modality == "image")
    assert model.encoder.precision == "fp32"
    assert model.encoder.encode([]).shape == (0, model.facts.dim)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own masks
@pytest.mark.parametrize("name", small_models.NAMES)
def test_equal_to_the_library(name, opened):
    """Each chunk gets the vector that transformers gives it alone, by the rule of its family."""
    model = opened(name)
    some = chunks(model)[:2]
    expected = [by_the_library(name, model, c) for c in some]
    np.testing.assert_allclose(
        model.encoder.encode([model.preparer.prepare(c) for c in some]), expected, atol=2e-6
    )


@pytest.mark.parametrize("name", small_models.NAMES)
def test_neighbours_and_order_do_not_matter(name, opened):
    """A chunk has the same vector alone, among others and in any order, whatever their sizes."""
    model = opened(name)
    several = inputs(model)
    together = model.encoder.encode(several)
    alone = np.vstack([model.encoder.encode([one]) for one in several])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(model.encoder.encode(several[::-1])[::-1], together, atol=1e-4)


def test_only_masked_waveforms_share_a_pass_with_longer_ones(opened):
    """A group norm is over time, so that padding would move the vectors of the shorter ones."""
    waves = {n: opened(n) for n in ("wav2vec2", "wav2vec2_layer", "hubert", "wavlm")}
    sizes = {n: len(list(m.encoder._batches(inputs(m)))) for n, m in waves.items()}
    assert sizes == {"wav2vec2": 4, "wav2vec2_layer": 1, "hubert": 1, "wavlm": 1}


@pytest.mark.parametrize("name", small_models.NAMES)
def test_preparing_is_deterministic(name, opened):
    """Equal chunks give equal bytes, in another preparer too."""
    model = opened(name)
    again = MediaPreparer(model.spec, model.facts)
    for one, chunk in zip(inputs(model), chunks(model), strict=True):
        assert one.dtype == np.float32
        assert (again.prepare(chunk) == one).all()


@pytest.mark.parametrize("name", small_models.JOINT)
@torch.inference_mode()
def test_texts_of_joint_models(name, opened):
    """A query is put into the space by the model's tokenizer and text tower."""
    model = opened(name)
    folder = str(model.facts.folder)
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if name.startswith("siglip") else False
    for text in ("a photo of the red circle", "blue", "the " * 50):
        tokens = tokenizer(
            text, padding=padding, truncation=True, max_length=model.facts.max_tokens, return_tensors="pt"
        )
        expected = unit(reference.get_text_features(**tokens).pooler_output[0])
        found = model.encoder.encode_query(text)
        assert (found.dtype, found.shape) == (np.float32, (model.facts.dim,))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.allclose(model.encoder.encode_query("red"), model.encoder.encode_query("blue"), atol=1e-3)


def test_siglip_reads_in_lower_case_and_from_its_file(altered):
    """Its tokenizer class needs a library that is not here; what it would read is in tokenizer.json too."""
    folder = altered("siglip")
    edit(folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    encoder = open_folder(folder, "image").encoder
    np.testing.assert_array_equal(encoder.encode_query("A Red CIRCLE"), encoder.encode_query("a red circle"))


@pytest.mark.parametrize("name", ALONE)
def test_models_without_text_take_no_queries_in_words(name, opened):
    """The refusal says what can be asked instead."""
    with pytest.raises(EncoderUnusable, match="its model knows no text"):
        opened(name).encoder.encode_query("a red circle")


def test_prompts_stand_before_queries(opened, altered):
    """`query_prompt` is put before each query of a joint model, and makes another space."""
    prompted = open_folder(altered("clip"), "image", query_prompt="a photo of a ")
    plain = opened("clip")
    np.testing.assert_allclose(
        prompted.encoder.encode_query("red circle"),
        plain.encoder.encode_query("a photo of a red circle"),
        atol=1e-6,
    )
    assert prompted.facts.space_id != plain.facts.space_id


@pytest.mark.parametrize("name", ["vit", "clip", "wav2vec2", "ast", "siglip2"])
def test_early_exit(name, opened, altered):
    """`layers: 1` is the model whose configuration has one layer in that tower."""
    modality = modality_of(name)
    folder = altered(name)
    short = open_folder(folder, modality, layers=1)
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    tower = reference.vision_model if name in small_models.JOINT else reference
    config = json.loads((folder / "config.json").read_text())
    part = config["vision_config"] if name in small_models.JOINT else config
    part["num_hidden_layers"] = 1
    weights = load_file(folder / "model.safetensors")
    cut = [
        k for k in weights if any(f".{n}." in k for n in (1, 2)) and "layer" in k and "conv_layers" not in k
    ]
    cut = [k for k in cut if not k.startswith("text_model")]
    assert tower.config.num_hidden_layers == 3
    assert cut
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {k: v for k, v in weights.items() if k not in cut}, folder / "model.safetensors", {"format": "pt"}
    )
    made = inputs(short)
    np.testing.assert_allclose(
        short.encoder.encode(made), open_folder(folder, modality).encoder.encode(made), atol=1e-6
    )
    assert not np.allclose(short.encoder.encode(made), opened(name).encoder.encode(made), atol=1e-2)
    kind = short.facts.space_id.partition("_")[0]
    assert kind == opened(name).facts.space_id.partition("_")[0] + "1"


def test_truncated_dims(opened, altered):
    """truncate_dim keeps the leading components of chunks and queries, at norm 1 again."""
    whole, short = opened("clip"), open_folder(altered("clip"), "image", truncate_dim=8)
    np.testing.assert_allclose(
        short.encoder.encode(inputs(short)), unit(whole.encoder.encode(inputs(whole))[:, :8]), atol=1e-5
    )
    np.testing.assert_allclose(
        short.encoder.encode_query("red"), unit(whole.encoder.encode_query("red")[:8]), atol=1e-5
    )
    assert short.facts.dim == 8


@pytest.mark.parametrize("name", ["clip", "vit", "dinov3", "clap", "wav2vec2_layer"])
def test_bf16_only_where_it_writes_the_same_space(name, altered):
    """The precision of a GPU is kept where golden inputs agree; else the model is as before."""
    model = open_folder(altered(name), modality_of(name))
    made = inputs(model)
    before = model.encoder.encode(made)
    golden = [made[0], made[2 if model.facts.modality == "audio" else 3]]
    model.encoder._try_bf16(golden, model.encoder._vectors_of(golden))
    after = model.encoder.encode(made)
    if model.encoder.precision == "fp32":
        np.testing.assert_array_equal(after, before)
    else:
        assert cosines(after[[0]], before[[0]]).min() >= SAME_SPACE
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", small_models.NAMES)
def test_the_gpu_writes_into_the_space_of_the_cpu(name, opened):
    """Every vector of a chunk or query at a cosine of at least 0.999 to fp32 on the CPU."""
    model = opened(name)
    on_gpu = LoadedMediaEncoder(model.spec, model.facts, device="cuda")
    made = inputs(model)
    assert cosines(on_gpu.encode(made), model.encoder.encode(made)).min() >= 0.999
    if "text" in model.facts.queries:
        words = [m.encode_query("a red circle")[None] for m in (on_gpu, model.encoder)]
        assert cosines(*words)[0] >= 0.999


@pytest.mark.parametrize(
    ("name", "least", "rate", "longest"),
    [
        ("clip", 32, 0, 0),
        ("dinov2", 36, 0, 0),
        ("siglip2", 32, 0, 0),
        ("clap", 0, 8_000, 8_000),
        ("ast", 0, 16_000, 64 * 160 + 399),
        ("wav2vec2", 0, 16_000, 0),
    ],
)
def test_what_a_preparer_asks_for(name, least, rate, longest, opened):
    """The shorter side and the rate are those of the model's own processor."""
    preparer = opened(name).preparer
    assert (preparer.least, preparer.rate, preparer.longest) == (least, rate, longest)


@pytest.mark.parametrize("name", ["clap", "clap_fused", "ast"])
def test_windows_that_would_be_cut_are_refused(name, opened):
    """A window of just what the model reads is taken; one sample more would be dropped, or chance."""
    preparer = opened(name).preparer
    window = np.zeros(preparer.longest + 1, np.float32)
    assert preparer.prepare(window[:-1]).shape == preparer.prepare(window[:100]).shape
    with pytest.raises(EncoderUnusable, match=r"reads at most \d\.\d+ s of audio.*cut windows of"):
        preparer.prepare(window)


@pytest.mark.parametrize("name", small_models.AUDIO)
@pytest.mark.parametrize("samples", [0, 1, 50])
def test_windows_of_a_few_samples_and_silence(name, samples, opened):
    """They are filled up with silence, and give a vector with a direction."""
    model = opened(name)
    vector = model.encoder.encode([model.preparer.prepare(np.zeros(samples, np.float32))])
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", small_models.IMAGE)
@pytest.mark.parametrize("size", [(1, 1), (50, 3), (3, 3), (1, 40), (4_000, 1)], ids=str)
def test_images_of_odd_sizes(name, size, opened):
    """A few pixels high, or far longer than wide: an input of the usual size, and soon."""
    model = opened(name)
    image = Image.new("RGB", size, (250, 20, 90))
    made = model.preparer.prepare(image)
    assert made.size <= 3 * 40 * 40
    assert np.isfinite(model.encoder.encode([made])).all()


def test_channels_are_told_from_rows(opened):
    """An image three pixels high is as red as one of the usual height."""
    preparer = opened("vit").preparer
    low, usual = (preparer.prepare(Image.new("RGB", (32, n), (255, 0, 0))) for n in (3, 32))
    np.testing.assert_array_equal(low, usual)


def test_far_ends_are_cropped_as_they_would_be_later(opened):
    """What is cut off before the resize is what the centre crop drops after it."""
    preparer = opened("clip").preparer
    random = np.random.default_rng(1)
    long = Image.fromarray(random.integers(0, 256, (64, 64 * 20, 3), dtype=np.uint8))
    made = preparer._processor(images=long, input_data_format="channels_last", return_tensors="np")
    np.testing.assert_allclose(preparer.prepare(long), made["pixel_values"][0], atol=1e-6)


def alter_weights(folder: Path, name: str) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[0] += 1e-3
    save_file(tensors, file, {"format": "pt"})


CHANGES: dict[str, Callable[[Path], None]] = {
    "weights of images": lambda f: alter_weights(f, "visual_projection.weight"),
    "weights of texts": lambda f: alter_weights(f, "text_projection.weight"),
    "activation": lambda f: edit(f / "config.json", projection_dim=20, hidden_act="relu"),
    "size": lambda f: edit(f / "preprocessor_config.json", size={"shortest_edge": 40}),
    "mean": lambda f: edit(f / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5]),
    "resampling": lambda f: edit(f / "preprocessor_config.json", resample=2),
    "newer processor": lambda f: (f / "processor_config.json").write_text('{"image_processor": {"size": 1}}'),
    "tokenizer": lambda f: edit(f / "tokenizer_config.json", unk_token="a"),
    "vocabulary": lambda f: (f / "tokenizer.json").write_text((f / "tokenizer.json").read_text() + " "),
}
SETTINGS = ({"truncate_dim": 8}, {"layers": 2}, {"max_tokens": 9}, {"query_prompt": "a photo of "})


def test_what_moves_vectors_is_another_space(altered, tmp_path):
    """Each weight, each setting of the processor or tokenizer, and each of the spec; no two are one."""
    folder = altered("clip")
    found = [describe(folder, "image", **settings) for settings in ({}, *SETTINGS)]
    for name, change in CHANGES.items():
        copy = Path(shutil.copytree(folder, tmp_path / name))
        if name == "vocabulary":  # white space is nothing in JSON: what counts is the vocabulary
            document = json.loads((copy / "tokenizer.json").read_text())
            document["model"]["vocab"]["zebra"] = 9_999
            (copy / "tokenizer.json").write_text(json.dumps(document))
        else:
            change(copy)
        found.append(describe(copy, "image"))
    assert len({f.fingerprint for f in found}) == len(found) == 1 + len(SETTINGS) + len(CHANGES)
    assert len({f.space_id for f in found}) == len(found)


def test_what_moves_no_vector(written, altered):
    """Where the folder lies, names, versions, descriptions, and settings that say what holds anyway."""
    folder = altered("clip")
    before = describe(written("clip"), "image")
    edit(folder / "config.json", _name_or_path="elsewhere", transformers_version="9.9")
    (folder / "README.md").write_text("a card")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    same = describe(folder, "image", layers=3, truncate_dim=20, max_tokens=16, query_prompt="")
    assert (same.fingerprint, same.space_id) == (before.fingerprint, before.space_id)


def test_what_a_configuration_leaves_out_is_the_default(altered):
    """Published ones often say only what differs from transformers' defaults."""
    folder = altered("siglip")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "text_config": {}, "vision_config": {}}))
    facts = describe(folder, "image", layers=11)
    assert (facts.dim, facts.max_tokens) == (768, 12)
    with pytest.raises(EncoderUnusable, match=r"layers is 13, but .* has 12"):
        describe(folder, "image", layers=13)


def test_pickled_weights_are_refused(altered):
    """Other formats than safetensors can run code when loaded; the message says how to convert."""
    folder = altered("vit")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderUnusable, match=r"no \*\.safetensors.*transformers\.AutoModel"):
        describe(folder, "image")


@pytest.mark.parametrize(
    ("name", "declared", "told"),
    [
        ("vit", "audio", "'vit' model, which encodes image.*`modality: image`"),
        ("clap", "image", "'clap' model, which encodes audio.*`modality: audio`"),
        ("clip", "text", "'clip' model, which encodes image.*`modality: image`"),
        ("wav2vec2", "text", "'wav2vec2' model, which encodes audio.*`modality: audio`"),
    ],
)
def test_models_of_another_modality(name, declared, told, written):
    """Refused, with what the model is of and what to set."""
    with pytest.raises(EncoderUnusable, match=told) as raised:
        describe(written(name), declared)
    assert str(written(name)) in str(raised.value)


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_a_model_of_text_is_none_of_media(modality, minilm_folder):
    """A sentence-transformers folder of text is refused, with the families that would do."""
    with pytest.raises(
        EncoderUnusable, match=f"'bert'.*not known to encode {modality}.*expected one of"
    ) as raised:
        describe(minilm_folder, modality)
    assert ("clip" in str(raised.value)) == (modality == "image")
    assert ("clap" in str(raised.value)) == (modality == "audio")
    assert f"remove `modality: {modality}`" in str(raised.value)


def test_unknown_architectures_are_refused(altered):
    """What an architecture's vector would be is not guessed."""
    folder = altered("vit")
    edit(folder / "config.json", model_type="llava")
    with pytest.raises(EncoderUnusable, match="'llava' model, which is not known to encode image"):
        describe(folder, "image")


@pytest.mark.parametrize(
    ("file", "error", "told"),
    [
        ("config.json", EncoderNotFound, r"no config\.json.*evervec\.yaml"),
        ("preprocessor_config.json", EncoderUnusable, r"no preprocessor_config\.json.*fetch it again"),
    ],
)
def test_missing_files(file, error, told, altered):
    """The message names the file and what it is for."""
    folder = altered("wav2vec2")
    (folder / file).unlink()
    with pytest.raises(error, match=told):
        describe(folder, "audio")


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_torn_files(file, altered):
    """A file that was cut off is an `EncoderUnusable` naming it."""
    folder = altered("vit")
    (folder / file).write_text((folder / file).read_text()[:30])
    with pytest.raises(EncoderUnusable, match=file):
        describe(folder, "image")


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("vit", {"document_prompt": "x"}, "document_prompt does nothing.*takes no prompt"),
        ("vit", {"query_prompt": "x"}, "query_prompt does nothing.*encodes no text"),
        ("ast", {"max_tokens": 9}, "max_tokens does nothing.*encodes no text"),
        ("clip", {"document_prompt": "x"}, "document_prompt does nothing"),
        ("clip", {"truncate_dim": 21}, "at most 20"),
        ("clip", {"layers": 4}, "has 3"),
        ("clap", {"layers": 1}, "in stages.*remove `layers: 1`"),
        ("dinov3_convnext", {"layers": 1}, "in stages"),
    ],
)
def test_settings_that_do_not_fit(name, settings, told, written):
    """Settings that the model cannot follow, or that would do nothing, are refused."""
    with pytest.raises(EncoderUnusable, match=told):
        describe(written(name), modality_of(name), **settings)


def test_weights_that_are_not_there_are_not_made_up(altered):
    """A tensor that the file lacks would be random: refused when loaded, naming it."""
    folder = altered("dinov2")
    weights = load_file(folder / "model.safetensors")
    weights.pop("layernorm.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderUnusable, match=r"lack 1 tensors, as layernorm\.weight"):
        open_folder(folder, "image")


@pytest.mark.parametrize(
    "change",
    [
        lambda f: edit(f / "config.json", hidden_size=16),
        lambda f: edit(f / "preprocessor_config.json", size={"height": 48, "width": 48}),
        lambda f: edit(f / "preprocessor_config.json", image_processor_type="NoSuchImageProcessor"),
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5_000]),
    ],
    ids=["width", "size of images", "processor", "torn weights"],
)
def test_files_of_different_models(change, altered):
    """A folder whose files contradict each other is refused when it is loaded, naming it."""
    folder = altered("vit")
    change(folder)
    with pytest.raises(EncoderUnusable, match="cannot be loaded") as raised:
        open_folder(folder, "image")
    assert str(folder) in str(raised.value)


def test_remote_code_stays_off(altered):
    """A folder that brings code of its own is refused, or loaded by the library's; its code is not run."""
    folder = altered("vit")
    marker = folder / "was_run"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    edit(folder / "config.json", auto_map={"AutoConfig": "own.Own", "AutoModel": "own.Own"})
    edit(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "own.Own"})
    open_folder(folder, "image")
    edit(folder / "preprocessor_config.json", image_processor_type="Own")
    edit(folder / "config.json", model_type="own")
    with pytest.raises(EncoderUnusable):
        open_folder(folder, "image")
    assert not marker.exists()


def test_hub_id_without_a_hub(monkeypatch):
    """A hub id that is neither cached nor reachable is an `EncoderNotFound` with what to check."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderNotFound, match="Check the name and the network"):
        describe("no-such-org/no-such-model", "image")


def test_hub_id_in_the_cache(written, tmp_path, monkeypatch):
    """What is in the hub's cache is described as its folder is, by branch and by commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    kept = tmp_path / "models--some--clip"
    shutil.copytree(written("clip"), kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", os.fspath(tmp_path))
    found = [describe("some/clip", "image", revision=r).fingerprint for r in (None, commit)]
    assert set(found) == {describe(written("clip"), "image").fingerprint}
    with pytest.raises(EncoderNotFound):
        describe("some/clip", "image", revision="other")


def saved(folder: Path, target: Path, *modules: torch.nn.Module) -> Path:
    """Save a model as sentence-transformers itself does."""
    stack = [Transformer(str(folder)), *modules]
    SentenceTransformer(modules=stack, device="cpu").save_pretrained(str(target), create_model_card=False)
    return target


def legacy(folder: Path, target: Path) -> Path:
    """As sentence-transformers/clip-ViT-B-32 is: the CLIP in a folder of its own."""
    shutil.copytree(folder, target / "0_CLIPModel")
    entry = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    (target / "modules.json").write_text(json.dumps([entry]))
    return target


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("clip", saved),
        ("clip", lambda f, t: saved(f, t, Normalize())),
        ("clip", legacy),
        ("siglip", saved),
        ("vit", lambda f, t: saved(f, t, Pooling(24, "mean"))),
        ("clap", saved),
    ],
    ids=["clip", "normalised clip", "clip of old", "siglip", "vit", "clap"],
)
def test_sentence_transformers_folders(name, write, written, tmp_path):
    """Vectors of chunks and queries are those of sentence-transformers' own `encode`, at norm 1."""
    folder = write(written(name), tmp_path / "saved")
    model = open_folder(folder, modality_of(name))
    reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    if model.facts.modality == "image":
        given = chunks(model)
    else:
        given = [{"array": c, "sampling_rate": model.preparer.rate} for c in chunks(model)]
    expected = np.vstack([reference.encode([g]) for g in given])
    np.testing.assert_allclose(model.encoder.encode(inputs(model)), unit(expected), atol=1e-5)
    if "text" in model.facts.queries:
        asked = unit(reference.encode(["a photo of the red circle"])[0])
        np.testing.assert_allclose(model.encoder.encode_query("a photo of the red circle"), asked, atol=1e-5)


@pytest.mark.parametrize("name", ["clap_fused", "siglip2"])
def test_sentence_transformers_folders_with_inputs_of_their_own(name, written, opened, tmp_path):
    """Models that take more than one input are given it there as well."""
    model = open_folder(saved(written(name), tmp_path / "saved"), modality_of(name))
    plain = opened(name)
    made = inputs(plain)
    np.testing.assert_allclose(model.encoder.encode(made), plain.encoder.encode(made), atol=1e-5)
    assert model.encoder.encode_query("a red circle " * 20).shape == (model.facts.dim,)


def test_settings_of_sentence_transformers_folders(written, tmp_path):
    """Its prompts are taken, layers are cut, and what stands before the model is refused if unknown."""
    folder = saved(written("clip"), tmp_path / "saved")
    edit(folder / "config_sentence_transformers.json", prompts={"query": "a photo of "})
    model = open_folder(folder, "image", layers=2)
    assert model.facts.query_prompt == "a photo of "
    assert model.facts.space_id.startswith("clip2_20_")
    made = inputs(model)
    np.testing.assert_allclose(
        model.encoder.encode(made),
        open_folder(written("clip"), "image", layers=2).encoder.encode(made),
        atol=1e-6,
    )
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["type"] = "sentence_transformers.models.Router"
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(EncoderUnusable, match="begins with a Router module"):
        describe(folder, "image")


def test_families_are_those_of_the_library():
    """Each `model_type` is one of transformers', so that no family is misspelt."""
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    assert all(name in known for name in FAMILIES)
    assert family_of({"model_type": "bert"}) is None
    assert family_of({}) is None

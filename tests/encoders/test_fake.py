"""The production fake: text to a unit vector by hashing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from encoders import catalog, files
from encoders.errors import EncoderUnusable
from encoders.fake import FakeEncoder, FakeMediaEncoder, FakePreparer, FakeTokenizer
from encoders.spec import EncoderSpec

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8, unique=True)


def fake(model: str = "fake:64", **settings: object) -> FakeEncoder:
    spec = EncoderSpec(model=model, **settings)
    encoder = catalog.open_encoder(spec, catalog.describe(spec, files.HashCache(None)))
    assert isinstance(encoder, FakeEncoder)
    return encoder


@settings(deadline=None, derandomize=True)
@given(texts=TEXTS, dim=st.integers(1, 300))
def test_unit_norm(texts, dim):
    """Vectors are float32, of the declared length and norm 1, for any text and any number of dims."""
    vectors = fake(f"fake:{dim}").encode(texts)
    assert (vectors.dtype, vectors.shape) == (np.float32, (len(texts), dim))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@settings(deadline=None, derandomize=True)
@given(texts=TEXTS)
def test_equal_texts_equal_vectors(texts):
    """A text's vector depends on nothing but the text: not on order, neighbours or the instance."""
    forward, backward = fake().encode(texts), fake().encode(texts[::-1])
    assert (forward == backward[::-1]).all()
    assert all((fake().encode([t])[0] == v).all() for t, v in zip(texts, forward, strict=True))


@settings(deadline=None, derandomize=True)
@given(texts=TEXTS)
def test_different_texts_are_far_apart(texts):
    """Different texts get nearly orthogonal vectors."""
    vectors = fake("fake:4096").encode(texts)
    alike = vectors @ vectors.T - np.eye(len(texts))
    assert np.abs(alike).max() < 0.15


def test_prompts_matter():
    """A prompt stands before the text: documents get the one, queries the other."""
    plain, prompted = fake(), fake(document_prompt="doc: ", query_prompt="ask: ")
    assert (prompted.encode(["x"]) == plain.encode(["doc: x"])).all()
    assert (prompted.encode_query("x") == plain.encode_query("ask: x")).all()
    assert not np.allclose(prompted.encode_query("x"), prompted.encode(["x"])[0])


def test_query_and_document_share_a_space():
    """Without prompts a query is where the equal document is; its vector has one axis."""
    encoder = fake()
    assert encoder.encode_query("x").shape == (64,)
    assert (encoder.encode_query("x") == encoder.encode(["x"])[0]).all()


def test_truncation_sets_the_dims():
    """truncate_dim gives shorter vectors of norm 1 in a space of their own."""
    whole, short = fake("fake:64"), fake("fake:64", truncate_dim=16)
    assert (short.facts.dim, short.encode(["x"]).shape) == (16, (1, 16))
    assert np.linalg.norm(short.encode(["x"])) == pytest.approx(1)
    assert short.facts.space_id != whole.facts.space_id


def test_nothing_in_nothing_out():
    """No texts give an array of no rows and the right width."""
    assert fake().encode([]).shape == (0, 64)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "fake:65"},
        {"document_prompt": "a"},
        {"query_prompt": "a"},
        {"max_tokens": 64},
        {"truncate_dim": 8},
    ],
)
def test_each_setting_is_a_space_of_its_own(change):
    """Any setting of the fake that differs changes fingerprint and space."""
    one, other = fake(), fake(**{"model": "fake:64", **change})
    assert one.facts.fingerprint != other.facts.fingerprint
    assert one.facts.space_id != other.facts.space_id


@pytest.mark.parametrize(
    ("settings", "fingerprint"),
    [
        ({"model": "fake:16"}, "c86507e36185bb1cdfb9ff6c9fd9bbbe46b5026bcb061454f7ef9a6883d6499b"),
        ({"model": "fake:64"}, "cab4f6fe02fd9346ab42056da08c573b92cfa05565c01a5d79a32e5551f01788"),
        (
            {"model": "fake:64", "truncate_dim": 16, "query_prompt": "q: "},
            "a9a481d72cc512a0e363ce6ae0a693514e89c01af2154d85a6c5f5ef62f6b0fe",
        ),
    ],
    ids=["16", "64", "settings"],
)
def test_fakes_of_text_are_those_of_the_first_version(settings, fingerprint):
    """Lakes name these spaces: what is added to specs must leave the fingerprints of text alone."""
    assert fake(**settings).facts.fingerprint == fingerprint


def test_facts_are_stable():
    """Describing the same spec twice gives the same facts; the space says kind and dims."""
    assert fake().facts == fake().facts
    assert fake().facts.space_id.startswith("fake_64_")


@pytest.mark.parametrize("model", ["fake:", "fake:0", "fake:-3", "fake:64.0", "fake:many", "fake:8193"])
def test_bad_dims_are_refused(model):
    """A fake without usable dims is refused, naming what was given and what is expected."""
    with pytest.raises(EncoderUnusable, match=r"expected fake:DIM with 1 to 8192 dims") as raised:
        fake(model)
    assert repr(model) in str(raised.value)


def test_layers_are_refused():
    """A fake has no layers to cut."""
    with pytest.raises(EncoderUnusable, match="remove `layers: 3`"):
        fake(layers=3)


def test_tokens_are_words_and_marks():
    """Tokens of the fake are words and single punctuation marks, at their places in the text."""
    text = "Grüße, 東京! x_1"
    tokens = FakeTokenizer().tokens(text)
    found = [text[a:b] for a, b in zip(tokens.start, tokens.end, strict=True)]
    assert found == ["Grüße", ",", "東京", "!", "x_1"]
    assert FakeTokenizer().count([text, "", " "]) == [5, 0, 0]


def media(modality: str, model: str = "fake:64") -> tuple[FakePreparer, FakeMediaEncoder]:
    spec = EncoderSpec(model=model, modality=modality)
    facts = catalog.describe(spec, files.HashCache(None))
    return catalog.open_preparer(spec, facts), catalog.open_media_encoder(spec, facts)


def test_each_modality_is_a_space_of_its_own():
    """The same fake for text, images and audio is three encoders."""
    facts = [fake().facts, media("image")[1].facts, media("audio")[1].facts]
    assert len({f.fingerprint for f in facts}) == len({f.space_id for f in facts}) == 3
    assert [(f.modality, f.queries) for f in facts] == [(m, (m,)) for m in ("text", "image", "audio")]


def test_images_by_content():
    """Equal pictures get equal unit vectors, alone or in company; different ones far ones."""
    preparer, encoder = media("image", "fake:1024")
    assert (preparer.least, preparer.rate) == (1, 0)
    pictures = [Image.new("RGB", (30, 20), colour) for colour in ("red", "green", "blue")]
    inputs = [preparer.prepare(p) for p in [*pictures, pictures[0].copy()]]
    assert {(i.shape, i.dtype.name) for i in inputs} == {((8, 8, 3), "float32")}
    vectors = encoder.encode(inputs)
    assert (vectors.dtype, vectors.shape) == (np.float32, (4, 1024))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors[0] == vectors[3]).all()
    assert (encoder.encode(inputs[1:2])[0] == vectors[1]).all()
    assert np.abs(vectors[:3] @ vectors[:3].T - np.eye(3)).max() < 0.2


@pytest.mark.parametrize("length", [0, 1, 63, 8_000], ids=str)
def test_audio_of_any_length(length):
    """Samples are reduced to 64 numbers; one sample louder is another vector."""
    preparer, encoder = media("audio", "fake:1024")
    assert preparer.rate == 8_000
    samples = np.sin(np.arange(length, dtype=np.float32))
    louder = np.append(samples[1:], np.float32(0.9))
    inputs = [preparer.prepare(samples), preparer.prepare(samples.copy()), preparer.prepare(louder)]
    assert {(i.shape, i.dtype.name) for i in inputs} == {((64,), "float32")}
    vectors = encoder.encode(inputs)
    assert (vectors[0] == vectors[1]).all()
    assert abs(vectors[0] @ vectors[2]) < 0.2
    assert encoder.encode([]).shape == (0, 1024)


def test_fakes_of_media_know_no_text():
    """A fake of images says that it cannot be asked in words."""
    with pytest.raises(EncoderUnusable, match="only be searched by image"):
        media("image")[1].encode_query("a red circle")


def test_a_run_over_texts_loads_nothing_of_images_and_sounds():
    """Every command knows the catalog; what it opens imports what it needs."""
    code = "import sys, encoders.catalog; print({'PIL', 'soundfile', 'soxr', 'torch'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""Text finds images: a small CLIP that was trained for it, from its files to the order of what is found."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from encoders import catalog, files
from encoders.protocol import MediaEncoder
from encoders.spec import EncoderSpec
from tests.encoders.joint import COLOURS, DIM, SHAPES, draw

KINDS = [(*kind, seed) for kind in itertools.product(COLOURS, SHAPES) for seed in range(4)]


@pytest.fixture(scope="module")
def gallery(joint_model: Path) -> tuple[MediaEncoder, np.ndarray]:
    """The trained model, and the vectors of pictures that it was not trained on."""
    spec = EncoderSpec(model=str(joint_model), modality="image")
    facts = catalog.describe(spec, files.HashCache(None))
    assert (facts.dim, facts.queries) == (DIM, ("image", "text"))
    preparer = catalog.open_preparer(spec, facts)
    encoder = catalog.open_media_encoder(spec, facts, device="cpu", threads=1)
    return encoder, encoder.encode([preparer.prepare(draw(*kind)) for kind in KINDS])


def share_found(gallery: tuple[MediaEncoder, np.ndarray], query: str, right: list[bool]) -> float:
    encoder, vectors = gallery
    best = np.argsort(-(vectors @ encoder.encode_query(query)))[: sum(right)]
    return float(np.mean([right[i] for i in best]))


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("query", ["{}", "a {} thing", "a photo of a {} thing"])
def test_words_find_pictures(query, colour, gallery):
    """Asked for a colour, the joint model puts the pictures of that colour before all others."""
    right = [kind[0] == colour for kind in KINDS]
    assert share_found(gallery, query.format(colour), right) >= 11 / 12


def test_captions_find_pictures(gallery):
    """Asked for colour and shape, mostly those come first that are both."""
    shares = [
        share_found(gallery, f"a {colour} {shape}", [kind[:2] == (colour, shape) for kind in KINDS])
        for colour, shape in itertools.product(COLOURS, SHAPES)
    ]
    assert np.mean(shares) >= 0.7


def test_pictures_find_pictures(gallery):
    """The nearest other picture is of the same colour."""
    _, vectors = gallery
    alike = vectors @ vectors.T - 2 * np.eye(len(vectors))
    assert np.mean([KINDS[i][0] == kind[0] for i, kind in zip(alike.argmax(1), KINDS, strict=True)]) >= 0.95

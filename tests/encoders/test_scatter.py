"""Wavelet scattering: a vector depends on its image alone, and changes as little as the mathematics says."""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from encoders import builtin, scatter
from encoders.errors import EncoderUnusable
from encoders.scatter import SETTINGS, ScatterEncoder, Scattering, ScatterPreparer
from encoders.spec import EncoderSpec

SPEC = EncoderSpec(model=scatter.MODEL, modality="image")
SIDE = SETTINGS.side


@pytest.fixture(scope="module")
def encoder():
    return ScatterEncoder(scatter.describe(SPEC), "cpu")


def drawing(seed, size=(90, 70)):
    """Rectangles and ellipses of any colour."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(rng.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for draw in (pen.rectangle, pen.ellipse, pen.rectangle):
        corners = np.sort(rng.integers(0, min(size), (2, 2)), axis=0)
        draw([tuple(c) for c in corners.tolist()], fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def letter(name, shift=0):
    """Strokes of an L, a T or a plus, white on black, moved to the right."""
    image = Image.new("RGB", (96, 96))
    pen = ImageDraw.Draw(image)
    strokes = {
        "L": ((30, 20, 38, 76), (30, 68, 66, 76)),
        "T": ((26, 20, 70, 28), (44, 20, 52, 76)),
        "+": ((44, 20, 52, 76), (20, 44, 76, 52)),
    }
    for left, top, right, bottom in strokes[name]:
        pen.rectangle((left + shift, top, right + shift, bottom), fill="white")
    return image


def vectors(encoder, *images):
    return encoder.encode([ScatterPreparer().prepare(image) for image in images])


def plain(colour):
    return Image.new("RGB", (50, 40), colour)


def test_unit_vectors_of_the_declared_length(encoder):
    """Whatever the image: float32, `dim` long, norm 1; of none an empty array."""
    assert encoder.facts.dim == SETTINGS.dim == 1094
    found = vectors(encoder, *(drawing(seed) for seed in range(5)))
    assert (found.dtype, found.shape) == (np.float32, (5, 1094))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert encoder.encode([]).shape == (0, 1094)


def test_neighbours_order_and_instance_do_not_matter(encoder):
    """Alone, among others, in the next pass and by another instance an image gets the same vector."""
    images = [drawing(seed) for seed in range(scatter.IMAGES_PER_PASS["cpu"] + 3)]
    whole = vectors(encoder, *images)
    np.testing.assert_allclose(vectors(encoder, *images[::-1])[::-1], whole, atol=1e-5)
    alone = vectors(ScatterEncoder(encoder.facts, "cpu"), images[-1])[0]
    np.testing.assert_allclose(alone, whole[-1], atol=1e-5)
    assert (vectors(encoder, *images) == whole).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3000), (3000, 1), (48, 48), (47, 49), (700, 20)])
def test_any_size_and_aspect(encoder, size):
    """One pixel, one column and a banner are all prepared to the same shape, and give a vector."""
    prepared = ScatterPreparer().prepare(drawing(1, (90, 90)).resize(size))
    assert (prepared.dtype, prepared.shape) == (np.uint8, (SIDE, SIDE, 3))
    assert np.linalg.norm(encoder.encode([prepared])[0]) == pytest.approx(1, abs=1e-6)


def test_the_aspect_is_kept_and_nothing_is_cut():
    """A wide image lies across the middle, whole, and mirrored above and below it."""
    wide = Image.new("RGB", (96, 48), "red")
    wide.paste("blue", (0, 24, 96, 48))
    prepared = ScatterPreparer().prepare(wide)
    red = prepared[:, 0, 0] > 128
    assert red.tolist() == [True] * 24 + [False] * 24
    tall = ScatterPreparer().prepare(wide.transpose(Image.Transpose.ROTATE_90))
    assert (tall == np.rot90(prepared)).all()


def test_plain_images_have_a_direction_and_their_colour(encoder):
    """White, black, grey and colours: finite unit vectors, no two of them the same."""
    found = vectors(encoder, *map(plain, ("white", "black", "grey", "red", "green", "blue", "#f00020")))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (found @ found.T - np.eye(7)).max() < 0.999
    structure = SETTINGS.chroma**2 + SETTINGS.luma
    assert np.abs(found[:, :-structure]).max() < 1e-3, "nothing but colour"


def test_a_small_shift_moves_less_than_another_shape(encoder):
    """4 of 96 pixels are less than the step from one letter to another, and so for each of them."""
    still = vectors(encoder, *map(letter, "LT+"))
    moved = vectors(encoder, *(letter(name, 4) for name in "LT+"))
    own = np.linalg.norm(still - moved, axis=1)
    others = np.linalg.norm(still[:, None] - still, axis=2) + 9 * np.eye(3)
    assert (own < 0.8 * others.min(axis=1)).all()


def test_contrast_and_polarity_leave_the_structure(encoder):
    """A fainter image and its negative have the same orders 1 and 2, but for the floor under contrast."""
    pixels = ScatterPreparer().prepare(letter("T"))
    found = encoder.encode([pixels, pixels // 2 + 60, 255 - pixels])
    structure = found[:, : -(SETTINGS.chroma**2 + SETTINGS.luma)]
    structure /= np.linalg.norm(structure, axis=1, keepdims=True)
    assert (structure @ structure.T).min() > 0.99


def test_edges_without_brightness_count(encoder):
    """Two colours as bright as each other still make a letter."""
    mask = np.asarray(letter("L"))[..., :1] > 0
    red, green = np.array([200, 0, 0]), np.array([0, 102, 0])  # luma 59.8 and 59.9
    image = Image.fromarray(np.where(mask, red, green).astype(np.uint8))
    found = vectors(encoder, image, letter("L"), letter("T"))[:, : -(SETTINGS.chroma**2 + SETTINGS.luma)]
    same, other = found[0] @ found[1], found[0] @ found[2]
    assert same > other + 0.1


def test_the_filters_keep_what_they_should():
    """The Littlewood-Paley sum is from 0.14 to 1, and 1 at frequency 0, where no wavelet answers."""
    bands, low = scatter.filters(SIDE, SETTINGS.scales, SETTINGS.angles)
    kept = scatter.littlewood_paley(bands, low)
    assert kept.max() <= 1 + 1e-9
    assert kept.min() > 0.14
    assert kept[0, 0] == pytest.approx(1)
    assert np.abs(bands[:, :, 0, 0]).max() < 1e-12
    peaks = np.abs(np.fft.fftfreq(SIDE))[[np.unravel_index(b.argmax(), b.shape)[1] for b in bands[:, 0]]]
    np.testing.assert_allclose(peaks, 0.375 / 2.0 ** np.arange(SETTINGS.scales), atol=1 / SIDE)


def test_the_transform_does_not_expand():
    """With a plane for each frequency: |U1|² and the mean add up to the kept share of |x|² (Plancherel)."""
    bands, low = scatter.filters(SIDE, SETTINGS.scales, SETTINGS.angles)
    image = np.random.default_rng(3).standard_normal((SIDE, SIDE))
    spectrum = np.fft.fft2(image)
    order_1 = np.abs(np.fft.ifft2(spectrum * bands)) ** 2
    energy = order_1.sum() + (np.fft.ifft2(spectrum * low).real ** 2).sum()
    share = scatter.littlewood_paley(bands, low)
    assert energy == pytest.approx((share * np.abs(spectrum) ** 2).sum() / SIDE**2)
    assert energy <= (image**2).sum()


def test_the_transform_is_what_its_definition_says():
    """As by whole convolutions, at the centres of the cells, within what aliases at the rate of a scale."""
    image = np.random.default_rng(4).uniform(size=(SIDE, SIDE))
    image = np.fft.ifft2(
        np.fft.fft2(image) * (np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE)] * 2)) < 0.2)
    ).real
    transform = Scattering(SETTINGS, "cpu")
    given = torch.tensor(image, dtype=torch.float32)[None, None]
    first, second = transform(given)
    bands, low = scatter.filters(SIDE, SETTINGS.scales, SETTINGS.angles)
    cell = 2**SETTINGS.scales
    middle = np.exp(2j * np.pi * np.fft.fftfreq(SIDE) * (cell - 1) / 2)

    def smooth(u):
        return np.fft.ifft2(np.fft.fft2(u) * low * middle[:, None] * middle).real[::cell, ::cell]

    def band(u, j):
        return np.abs(np.fft.ifft2(np.fft.fft2(u) * bands[j]))

    once = np.array([[smooth(u) for u in band(image, j)] for j in range(SETTINGS.scales)])
    twice = np.array(
        [
            [[smooth(v) for v in band(u, k)] for u in band(image, j)]
            for j in range(SETTINGS.scales)
            for k in range(j + 1, SETTINGS.scales)
        ]
    )
    assert np.abs(first[0].numpy() - once).max() < 0.03 * once.max()
    assert np.abs(second[0].numpy() - twice).max() < 0.08 * twice.max()
    assert (second.square().sum() < first.square().sum()).item(), "energy decays with the order"
    np.testing.assert_allclose(transform(3 * given)[1], 3 * second, rtol=1e-4, atol=1e-6)


def test_every_setting_is_in_the_fingerprint():
    """No setting moves vectors without naming another space, and neither does the version."""
    own = builtin.fingerprint("1", SETTINGS)
    changed = {f.name: replace(SETTINGS, **{f.name: getattr(SETTINGS, f.name) * 2}) for f in fields(SETTINGS)}
    prints = {name: builtin.fingerprint("1", settings) for name, settings in changed.items()}
    assert len({own, builtin.fingerprint("2", SETTINGS), *prints.values()}) == len(prints) + 2
    facts = scatter.describe(SPEC)
    assert facts.space_id == f"image_scatter_1094_{facts.fingerprint[:8]}"
    assert (facts.modality, facts.queries, facts.folder, facts.max_tokens) == ("image", ("image",), None, 0)


@pytest.mark.parametrize(
    "setting",
    [
        {"layers": 2}, {"max_tokens": 64}, {"truncate_dim": 9}, {"revision": "main"},
        {"document_prompt": "a"}, {"query_prompt": "a"},
    ],
)  # fmt: skip
def test_what_it_has_not_is_refused(setting):
    """A setting without effect is an error that names it."""
    with pytest.raises(EncoderUnusable, match=f"remove `{next(iter(setting))}`"):
        scatter.describe(EncoderSpec(model=scatter.MODEL, modality="image", **setting))


def test_texts_are_refused(encoder):
    """As items and as queries, with what to do instead."""
    with pytest.raises(EncoderUnusable, match="set `modality: image`"):
        scatter.describe(EncoderSpec.model_construct(model=scatter.MODEL, modality="text"))
    with pytest.raises(EncoderUnusable, match=r"images only.*query with an image"):
        encoder.encode_query("a cat")


def test_facts_are_told_without_torch():
    """Describing and preparing take no seconds of imports: of this encoder and of that of sounds."""
    code = "import sys; from encoders import logmel, scatter; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(scatter.__file__).parents[1])
    assert done.returncode == 0


def test_golden_values(encoder):
    """The vectors of this version: where they change, `_VERSION` changes too."""
    found = vectors(encoder, letter("L"), drawing(7), plain("red"))
    picked = found[:, [0, 4, 8, 13, 500, 870, 1000, 1048, 1077, 1091]]
    np.testing.assert_allclose(picked, GOLDEN, atol=1e-4)


GOLDEN = np.array(
    [
        [0.03398, 0.06691, 0.00216, 0.00776, 0.00114, -0.04424, 0.07045, 0.37654, 0.00000, 0.01590],
        [0.02195, 0.07563, 0.00457, 0.01491, -0.00240, -0.04623, 0.04860, 0.15123, 0.00000, 0.04622],
        [-0.00000, -0.00000, -0.00000, -0.00000, -0.00000, 0.00000, -0.00000, 0.00000, 0.00000, 0.12721],
    ]
)


@pytest.mark.gpu
def test_a_gpu_gives_the_same(encoder):
    """Within 1e-4 of the CPU's."""
    images = [drawing(seed) for seed in range(9)]
    found = vectors(ScatterEncoder(encoder.facts, "cuda"), *images)
    np.testing.assert_allclose(found, vectors(encoder, *images), atol=1e-4)

"""Log-mel statistics: a vector depends on its sound alone; silence and the shortest sounds have one."""

from dataclasses import fields, replace

import numpy as np
import pytest

from encoders import builtin, logmel
from encoders.errors import EncoderUnusable
from encoders.logmel import SETTINGS, LogMelEncoder, LogMelPreparer
from encoders.spec import EncoderSpec

SPEC = EncoderSpec(model=logmel.MODEL, modality="audio")
RATE = SETTINGS.rate


@pytest.fixture(scope="module")
def encoder():
    return LogMelEncoder(logmel.describe(SPEC), "cpu")


def noise(seconds, seed=0):
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE)) / 10


def tone(hz, seconds=1.0, per_s=0.0):
    """A tone that swells `per_s` times a second."""
    t = np.arange(round(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * hz * t) * (0.5 + 0.5 * np.cos(2 * np.pi * per_s * t))


def rise(low, high, seconds=1.0):
    t = np.arange(round(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * np.cumsum(low + (high - low) * t / seconds) / RATE)


def vectors(encoder, *sounds):
    return encoder.encode([LogMelPreparer().prepare(sound) for sound in sounds])


def test_unit_vectors_of_the_declared_length(encoder):
    """From 10 ms to a minute: float32, `dim` long, norm 1; of none an empty array."""
    assert encoder.facts.dim == SETTINGS.dim == 488
    found = vectors(encoder, *map(noise, (0.01, 0.024, 0.025, 0.3, 1.28, 1.29, 3, 60)))
    assert (found.dtype, found.shape) == (np.float32, (8, 488))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert encoder.encode([]).shape == (0, 488)


def test_neighbours_order_and_instance_do_not_matter(encoder):
    """Alone, beside much longer ones and by another instance a sound gets the same vector, to the bit."""
    sounds = [noise(0.01), tone(440), noise(20), rise(200, 900, 0.4), tone(700, 5, 3)]
    whole = vectors(encoder, *sounds)
    assert (vectors(encoder, *sounds[::-1])[::-1] == whole).all()
    other = LogMelEncoder(encoder.facts, "cpu")
    assert all((vectors(other, s)[0] == v).all() for s, v in zip(sounds, whole, strict=True))


@pytest.mark.parametrize("samples", [0, 1, 160, RATE, 60 * RATE])
def test_silence_has_a_direction(encoder, samples):
    """The same for silence of any length, and nearly so for noise below 16 bits; not that of a sound."""
    found = vectors(encoder, np.zeros(samples), np.zeros(RATE), 1e-7 * noise(1), noise(1))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert found[0] @ found[1] > 0.9
    assert found[1] @ found[2] > 0.9
    assert found[0] @ found[3] < 0.2


def test_gain_is_left_out(encoder):
    """From full scale to 40 dB below it a sound stays where it is."""
    sound = rise(300, 1200) + noise(1) / 10
    found = vectors(encoder, sound, sound / 10, sound / 100)
    assert (found @ found.T).min() > 0.999


def test_silence_around_a_sound_moves_it_less_than_another_sound(encoder):
    """Half a second of faint noise before and after, and it is still nearer to itself than to its reverse."""
    sound = np.concatenate([rise(200, 800, 0.4), rise(800, 2500, 0.3)])
    lead = noise(0.5, 1) / 100
    padded = np.concatenate([lead, sound, lead])
    found = vectors(encoder, sound, padded, sound[::-1])
    assert found[0] @ found[1] > found[0] @ found[2] + 0.1


def test_the_direction_of_time_counts(encoder):
    """A rising tone is not a falling one, which has the same spectrum."""
    found = vectors(encoder, rise(300, 3000), rise(3000, 300), rise(320, 2900))
    assert found[0] @ found[2] > found[0] @ found[1] + 0.2


def test_the_pace_counts(encoder):
    """Of a tone that swells 3 times a second, 3 times a second later on is nearer than 9 times at once."""
    found = vectors(encoder, tone(500, 3, 3), tone(500, 3, 9), tone(500, 3, 3)[2000:])
    assert found[0] @ found[2] > found[0] @ found[1] + 0.2


def test_steady_sounds_differ_by_their_spectrum(encoder):
    """Nothing moves in them, and yet a low tone, a high one and noise are three things."""
    found = vectors(encoder, tone(200, 2), tone(3000, 2), noise(2))
    assert (found @ found.T - np.eye(3)).max() < 0.9


def test_the_bands_share_out_the_spectrum():
    """Triangles sum to one from the first centre to the last, and each has bins of its own."""
    bands = logmel.mel(SETTINGS)
    assert bands.shape == (SETTINGS.bands, SETTINGS.transform // 2 + 1)
    first, last = bands[0].argmax() + 1, bands[-1].argmax()
    np.testing.assert_allclose(bands[:, first:last].sum(0), 1, atol=1e-9)
    assert (bands.sum(1) > 0).all()


def test_the_cosine_transform_keeps_lengths():
    """Its rows are orthonormal, and the first is the mean."""
    table = logmel.cosines(SETTINGS.bands, SETTINGS.bands)
    np.testing.assert_allclose(table @ table.T, np.eye(SETTINGS.bands), atol=1e-12)
    assert np.ptp(table[0]) == 0


def test_every_setting_is_in_the_fingerprint():
    """No setting moves vectors without naming another space, and neither does the version."""
    own = builtin.fingerprint("1", SETTINGS)
    changed = {f.name: replace(SETTINGS, **{f.name: getattr(SETTINGS, f.name) * 2}) for f in fields(SETTINGS)}
    prints = {name: builtin.fingerprint("1", settings) for name, settings in changed.items()}
    assert len({own, builtin.fingerprint("2", SETTINGS), *prints.values()}) == len(prints) + 2
    facts = logmel.describe(SPEC)
    assert facts.space_id == f"audio_logmel_488_{facts.fingerprint[:8]}"
    assert (facts.modality, facts.queries, facts.folder, facts.max_tokens) == ("audio", ("audio",), None, 0)


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
        logmel.describe(EncoderSpec(model=logmel.MODEL, modality="audio", **setting))


def test_texts_are_refused(encoder):
    """As items and as queries, with what to do instead."""
    with pytest.raises(EncoderUnusable, match="set `modality: audio`"):
        logmel.describe(EncoderSpec.model_construct(model=logmel.MODEL, modality="text"))
    with pytest.raises(EncoderUnusable, match=r"audio only.*query with a sound"):
        encoder.encode_query("a bell")


def test_preparing_keeps_the_samples():
    """Any array of samples becomes float32 in one piece."""
    prepared = LogMelPreparer().prepare(np.arange(10, dtype=np.float64)[::2])
    assert (prepared.dtype, prepared.flags["C_CONTIGUOUS"], prepared.tolist()) == (
        np.float32,
        True,
        [0, 2, 4, 6, 8],
    )


def test_golden_values(encoder):
    """The vectors of this version: where they change, `_VERSION` changes too."""
    found = vectors(encoder, tone(440, 1, 4), rise(300, 3000), np.zeros(RATE))
    picked = found[:, [0, 1, 5, 25, 100, 191, 193, 222, 450, 487]]
    np.testing.assert_allclose(picked, GOLDEN, atol=1e-4)


GOLDEN = np.array(
    [
        [0.07760, 0.28719, -0.28339, 0.00001, -0.00019, -0.00001, 0.01427, 0.00004, -0.00467, -0.00557],
        [0.07759, 0.06504, -0.07438, 0.15808, 0.03719, 0.02968, 0.09858, 0.00101, -0.01782, -0.01977],
        [0.99997, 0.00001, 0.00001, 0.00000, -0.00000, 0.00000, 0.00260, 0.00016, -0.00001, -0.00001],
    ]
)


@pytest.mark.gpu
def test_a_gpu_gives_the_same(encoder):
    """Within 1e-4 of the CPU's."""
    sounds = [noise(0.01), tone(440, 1, 4), rise(300, 3000), noise(3)]
    found = vectors(LogMelEncoder(encoder.facts, "cuda"), *sounds)
    np.testing.assert_allclose(found, vectors(encoder, *sounds), atol=1e-4)

"""Files of sound to mono samples, or a reason why not; and the windows of a sound."""

import io
import math
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from encoders.errors import Undecodable
from encoders.pictures import decode_image
from encoders.sounds import MAX_AUDIO_BYTES, MAX_SECONDS, decode_audio, windows
from encoders.spec import MediaFacts
from tests.encoders import hostile
from tests.encoders.hostile import RATE, SOUNDS, wav, wave, written

GOOD = hostile.sounds(seconds=0.7)
LOSSLESS = {
    "16.wav": 3.1e-5,
    "24.wav": 1e-7,
    "32.wav": 1e-7,
    "float.wav": 0,
    "double.wav": 1e-7,
    "extensible.wav": 3.1e-5,
}
LOSSLESS |= {
    "u8.wav": 0.008,
    "large.wav": 3.1e-5,
    "16.flac": 3.1e-5,
    "24.flac": 1e-7,
    "16.aiff": 3.1e-5,
    "16.caf": 3.1e-5,
}
LOSSLESS |= {"float.aiff": 0, "alac.caf": 3.1e-5, "mulaw.wav": 0.02}


def refused(content: bytes, rate: int = 16_000) -> str:
    with pytest.raises(Undecodable) as caught:
        decode_audio(content, rate)
    assert caught.value.stage == "decode"
    return str(caught.value)


def samples(content: bytes, rate: int = 16_000) -> np.ndarray:
    return decode_audio(content, rate)[0]


def decibels(signal: np.ndarray) -> np.ndarray:
    """Of each hertz of one second, against a sine of amplitude 1."""
    window = np.kaiser(len(signal), 20)
    return 20 * np.log10(np.abs(np.fft.rfft(signal * window)) / window.sum() * 2 + 1e-12)


@pytest.mark.parametrize("name", SOUNDS)
def test_every_format_is_decoded(name):
    """Each file gives float32 samples of the right number, and its facts."""
    heard, facts = decode_audio(GOOD[name], 16_000)
    kind = name.split(".")[1]
    assert (facts.format, facts.channels, facts.width) == (kind, 2, None)
    assert facts.rate == (48_000 if kind == "opus" else RATE)
    assert facts.seconds == pytest.approx(0.7, abs=0.05 if name == "adpcm.wav" else 0)  # whole blocks
    assert (heard.dtype, heard.ndim) == (np.float32, 1)
    assert len(heard) == math.ceil(round(facts.seconds * facts.rate) * 16_000 / facts.rate)


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_agree(name):
    """At their own rate they give what was written, but for the steps of their integers."""
    expected = wave(0.7, RATE, 2).mean(axis=1)
    assert np.abs(samples(GOOD[name], RATE) - expected).max() <= LOSSLESS[name] + 1e-7


@pytest.mark.parametrize("name", ["vorbis.ogg", "opus.opus", "layer3.mp3", "adpcm.wav"])
def test_lossy_formats_are_close(name):
    """The sound comes back nearly as it was, at its place: nothing is shifted."""
    rate = decode_audio(GOOD[name], RATE)[1].rate
    assert rate is not None
    expected = wave(0.7, rate, 2).mean(axis=1)[: rate // 2]
    assert np.sqrt(np.mean((samples(GOOD[name], rate)[: rate // 2] - expected) ** 2)) < 0.02


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("target", [16_000, 48_000])
def test_a_tone_keeps_pitch_and_loudness(rate, target):
    """A sine within the band of both rates keeps frequency and amplitude, and nothing is added."""
    for hertz in (50, 1_000, 3_300):
        tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(rate * 2) / rate)
        heard = samples(written(tone, rate, "WAV", "FLOAT"), target)
        assert len(heard) == 2 * target
        spectrum = decibels(heard[target // 2 : target // 2 + target])
        assert abs(int(spectrum.argmax()) - hertz) <= 1
        assert spectrum[hertz] == pytest.approx(20 * math.log10(0.5), abs=0.02)
        spectrum[max(hertz - 12, 0) : hertz + 13] = -200
        assert spectrum.max() < -75


@pytest.mark.parametrize("hertz", [8_000, 8_200, 9_000, 12_000, 15_900, 20_000])
def test_what_the_new_rate_cannot_hold_is_gone(hertz):
    """No tone above the new Nyquist frequency comes back as another one: below -75 dB."""
    for rate in (44_100, 48_000):
        tone = np.sin(2 * np.pi * hertz * np.arange(rate * 2) / rate)
        heard = samples(written(tone, rate, "WAV", "FLOAT"), 16_000)
        assert decibels(heard[8_000:24_000]).max() < -75


def test_the_band_is_flat_to_where_it_is_said():
    """0.9 of the Nyquist frequency is not weakened by more than 0.05 dB."""
    tone = np.sin(2 * np.pi * 7_200 * np.arange(RATE * 2) / RATE)
    heard = samples(written(tone, RATE, "WAV", "FLOAT"), 16_000)
    assert decibels(heard[8_000:24_000])[7_200] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    ("rate", "target"), [(44_100, 16_000), (48_000, 16_000), (11_025, 48_000), (44_101, 16_000)]
)
def test_blocks_leave_no_seam(rate, target):
    """Longer than many blocks, a sound is resampled as if at once; none becomes nothing."""
    sound = np.random.default_rng(1).uniform(-0.9, 0.9, 300_000).astype(np.float32)
    for length in (1, 2, 441, 65_536, 65_537, 300_000):
        heard = samples(written(sound[:length], rate, "WAV", "FLOAT"), target)
        assert abs(len(heard) - length * target / rate) <= 1
        whole = soxr.resample(sound[:length], rate, target, quality="HQ")
        assert np.array_equal(heard, whole if len(whole) else sound[:1])


@pytest.mark.parametrize("name", ["layer3.mp3", "vorbis.ogg", "opus.opus", "16.flac"])
def test_coded_blocks_leave_no_seam(name):
    """Read in blocks, a coded sound is the same as read at once: a decoder that seeks would forget."""
    rate = 48_000
    content = written(wave(4, rate), rate, *SOUNDS[name])
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        whole = file.read(5 * rate, dtype="float32")
    assert np.array_equal(samples(content, rate), whole)


def test_channels_are_mixed_to_their_mean():
    """So one channel of two is half as loud, opposite channels are silence, and nothing clips."""
    tone = wave(0.1)[:, 0]
    for channels in ([tone, 0 * tone], [tone, -tone], [tone] * 6, [np.ones_like(tone)] * 2):
        heard = samples(written(np.stack(channels, 1), RATE, "WAV", "FLOAT"), RATE)
        assert np.abs(heard - np.mean(channels, axis=0)).max() < 1e-6


def test_floats_stay_as_they_are():
    """A float file may be louder than 1."""
    assert samples(written(np.full(1_000, 3.5), 16_000, "WAV", "FLOAT")).tolist() == [3.5] * 1_000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("at", [0, 70_000, 99_999])
def test_samples_that_are_no_numbers_are_refused(value, at):
    """One such sample anywhere is enough."""
    sound = np.zeros((100_000, 2))
    sound[at, 1] = value
    assert "NaN, infinite" in refused(written(sound, RATE, "WAV", "FLOAT"))


@pytest.mark.parametrize("name", SOUNDS)
def test_truncated_files_are_refused(name):
    """Cut short anywhere, a file is refused, or has lost nothing."""
    content = GOOD[name]
    whole = samples(content)
    step = max(len(content) // 25, 1)
    for end in sorted({*range(0, len(content), step), *range(len(content) - 12, len(content))}):
        try:
            heard = samples(content[:end])
        except Undecodable:
            continue
        assert np.array_equal(heard, whole), end
        assert name == "alac.caf", end  # a byte follows its last chunk


def test_what_follows_the_samples_may_be_missing():
    """A WAV that lost its notes at the end is whole; so is one written to a pipe, of unknown size."""
    data = struct.pack("<100h", *range(100))
    whole = samples(wav(16_000, 1, data))
    assert len(whole) == 100
    assert np.array_equal(samples(wav(16_000, 1, data) + b"LIST\xff\0\0\0INFO"), whole)
    for claimed in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFDB):
        assert np.array_equal(samples(wav(16_000, 1, data, claimed=claimed)), whole)
    assert "missing: 1" in refused(wav(16_000, 1, data, claimed=201))


def test_an_ogg_is_whole_to_its_last_page():
    """Cut between two pages, with a page missing, or followed by another stream, it is refused."""
    for name in ("vorbis.ogg", "opus.opus"):
        content = written(wave(5, 48_000), 48_000, *SOUNDS[name])
        pages = content.split(b"OggS")[1:]
        assert len(pages) > 4
        assert "last page" in refused(b"OggS" + b"OggS".join(pages[:-1]))
        assert "missing" in refused(b"OggS" + b"OggS".join(pages[:3] + pages[4:]))
        assert "several streams" in refused(content + GOOD["vorbis.ogg"])
        rng = random.Random(4)
        for _ in range(100):
            assert refused(hostile.flipped(content, rng))


DELAY = 529
"""Samples that a decoder of MP3 drops, since they are but its own delay."""


def mp3_frames(content: bytes) -> list[int]:
    from encoders.containers import _frames

    return list(_frames(content))


@pytest.mark.parametrize("kind", ["constant", "variable"])
def test_an_mp3_without_a_count_is_read_to_its_end(kind):
    """libsndfile alone would guess its length, and stop there; a wrong count, or tags, do no harm."""
    content = hostile.vbr_mp3(5) if kind == "variable" else written(wave(5), RATE, *SOUNDS["layer3.mp3"])
    whole, facts = decode_audio(content, RATE)
    assert facts.seconds == 5
    starts = mp3_frames(content)
    bare = content[starts[1] :]
    heard, facts = decode_audio(bare, RATE)
    assert len(heard) == (len(starts) - 1) * 1_152 - DELAY == round(facts.seconds * RATE)
    shift = int(np.correlate(heard[:4_000], whole[:2_000], "valid").argmax())  # of the encoder, not trimmed
    assert np.abs(heard[shift : shift + 100_000] - whole[:100_000]).max() < 0.02
    longer, _ = decode_audio(content + bare, RATE)
    assert len(longer) == 2 * (len(starts) - 1) * 1_152 - DELAY
    tags = b"ID3\4\0\0\0\0\1\0" + bytes(128)
    assert len(samples(tags + content + b"TAG" + bytes(125), RATE)) == len(whole)
    assert np.array_equal(samples(tags + bare + b"TAG" + bytes(125), RATE), heard)


def test_the_other_count_of_an_mp3():
    """Some encoders write their count as VBRI: it tells what is missing, and is no sound."""
    content = GOOD["layer3.mp3"]
    starts = mp3_frames(content)
    count = b"VBRI" + bytes(10) + struct.pack(">I", len(starts) - 1)
    marked = content[:4] + (bytes(32) + count).ljust(starts[1] - 4, b"\0") + content[starts[1] :]
    assert np.array_equal(samples(marked, RATE), samples(content[starts[1] :], RATE))
    assert "frames are there" in refused(marked[: starts[20]])


def test_a_flac_that_claims_more_is_refused():
    """All its frames are there, but not as many samples as its header says."""
    content = bytearray(GOOD["16.flac"])
    content[24] += 1  # the last byte but one of their number
    assert "cut short" in refused(bytes(content))


def test_an_mp3_cut_between_frames():
    """With a count of its frames it is refused, without one nothing tells that there were more."""
    content = GOOD["layer3.mp3"]
    starts = mp3_frames(content)
    assert "frames are there" in refused(content[: starts[20]])
    bare = content[starts[1] : starts[20]]
    assert len(samples(bare, RATE)) == 19 * 1_152 - DELAY
    assert "cut short" in refused(content[starts[1] : starts[20] + 50])
    assert "no frame begins there" in refused(
        content[starts[1] : starts[20]] + bytes(10) + content[starts[20] :]
    )
    assert refused(content[: starts[1]])


@pytest.mark.parametrize("name", SOUNDS)
def test_flipped_bits_are_refused_or_heard(name):
    """Whatever bits are flipped, and wherever, the outcome is finite samples or `Undecodable`."""
    rng = random.Random(name)
    for _ in range(40):
        head = min(200, len(GOOD[name]))
        damaged = hostile.flipped(GOOD[name][:head], rng, rng.choice([1, 1, 4])) + GOOD[name][head:]
        if rng.random() < 0.5:
            damaged = hostile.flipped(GOOD[name], rng, rng.choice([1, 30]))
        try:
            heard, facts = decode_audio(damaged, 16_000)
        except Undecodable:
            continue
        assert np.isfinite(heard).all()
        assert len(heard)
        assert facts.seconds
        assert not name.endswith(("ogg", "opus"))


def test_damage_within_flac_is_refused():
    """Each frame has a checksum: behind the header no flipped bit goes unseen."""
    rng = random.Random(8)
    content = GOOD["16.flac"]
    for _ in range(100):
        assert refused(content[:9_000] + hostile.flipped(content[9_000:], rng))


HEADS = sorted({content[:n] for content in GOOD.values() for n in (0, 12, 44, 100)})


@settings(deadline=None, derandomize=True, max_examples=300)
@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=300))
def test_any_bytes_are_sound_or_refused(head, tail):
    """Whatever the bytes, no other error escapes."""
    try:
        heard, facts = decode_audio(head + tail, 16_000)
    except Undecodable:
        return
    assert np.isfinite(heard).all()
    assert facts.rate


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (bytes(100), "zero bytes"),
        (b"<html><body>404</body></html>", "an HTML page"),
        (b"Not a song at all, but a few words.", "text"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "M4A (AAC) audio"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "MP4 or QuickTime"),
        (b"\x1aE\xdf\xa3\x01\0\0\0", "Matroska or WebM"),
        (b"0&\xb2u\x8ef\xcf\x11\xa6\xd9", "WMA"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\x01\x02\x03\x04", "of no kind known here"),
    ],
)
def test_other_kinds_are_named(content, reason):
    """A file of another kind is refused by what it is and what is taken."""
    told = refused(content)
    assert reason in told
    assert "WAV, FLAC, Ogg" in told


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (wav(1, 1, bytes(800)), "1 samples per second"),
        (wav(10_000_000, 1, bytes(800)), "10,000,000 samples per second"),
        (wav(8_000, 65, bytes(13_000)), "65 channels"),
        (wav(8_000, 1, b""), "no samples"),
        (wav(1_000, 1, bytes(MAX_SECONDS * 1_000 + 1), bits=8), "seconds"),
        (bytes(MAX_AUDIO_BYTES + 1), f"{MAX_AUDIO_BYTES:,}"),
    ],
    ids=["slow", "fast", "channels", "nothing", "long", "large"],
)
def test_absurd_sounds_are_refused(content, reason):
    """Rates, channels, lengths and sizes have their limits, which the reason names."""
    assert reason in refused(content)


def test_a_length_that_is_unknown_is_limited_while_reading(monkeypatch: pytest.MonkeyPatch):
    """A FLAC that does not say how long it is, is read up to the limit and no further."""
    content = bytearray(GOOD["16.flac"])
    content[21] &= 0xF0  # 36 bits of the number of samples
    content[22:26] = bytes(4)
    assert np.array_equal(samples(bytes(content)), samples(GOOD["16.flac"]))
    monkeypatch.setattr("encoders.sounds.MAX_SECONDS", 0.5)
    assert "taken per item" in refused(bytes(content))


def test_a_rate_must_be_one():
    """What the caller wants is no matter of the file."""
    with pytest.raises(ValueError, match="rate is 0"):
        decode_audio(GOOD["16.wav"], 0)


def test_threads_do_not_disturb_each_other():
    """Many sounds at once come out as one by one."""
    names = [*GOOD] * 3
    with ThreadPoolExecutor(4) as pool:
        for name, heard in zip(names, pool.map(lambda name: samples(GOOD[name]), names), strict=True):
            assert np.array_equal(heard, samples(GOOD[name]))


def test_samples_are_held_once():
    """The array is as long as the sound, not a view into a longer one."""
    for content in (GOOD["16.wav"], GOOD["layer3.mp3"]):
        heard = samples(content)
        assert heard.base is None
        assert heard.flags.owndata


SIZES = st.tuples(st.floats(0.01, 30), st.floats(0, 0.49)).map(lambda s: (s[0], s[0] * s[1]))


@settings(derandomize=True, max_examples=150, deadline=None)
@given(count=st.integers(1, 200_000), rate=st.sampled_from([100, 8_000, 16_000]), size=SIZES)
@example(count=1, rate=100, size=(0.01, 0.0))
@example(count=10, rate=100, size=(0.014, 0.0069))
def test_windows_cover_every_sample(count, rate, size):
    """All are of one length, in order, overlap as asked or more, and end with the sound."""
    seconds, overlap = size
    length = round(seconds * rate)
    found = windows(count, rate, seconds=seconds, overlap=overlap)
    assert found == windows(count, rate, seconds=seconds, overlap=overlap)
    assert found[0][0] == 0
    assert found[-1][1] == count
    assert {end - start for start, end in found} == {min(length, count)}
    step = length - min(round(overlap * rate), (length - 1) // 2)
    assert all(0 < later[0] - former[0] <= step <= length for former, later in pairwise(found))
    assert len(found) == 1 + max(-(-(count - length) // step), 0)


def test_windows_by_example():
    """As one would draw them."""
    assert windows(0, 10, seconds=1, overlap=0) == []
    assert windows(7, 10, seconds=1, overlap=0.2) == [(0, 7)]
    assert windows(10, 10, seconds=1, overlap=0.2) == [(0, 10)]
    assert windows(11, 10, seconds=1, overlap=0.2) == [(0, 10), (1, 11)]
    assert windows(26, 10, seconds=1, overlap=0.2) == [(0, 10), (8, 18), (16, 26)]
    assert windows(30, 10, seconds=1, overlap=0) == [(0, 10), (10, 20), (20, 30)]


@pytest.mark.parametrize(
    ("seconds", "overlap"),
    [(1, 0.6), (1, -0.1), (0, 0), (-1, 0), (math.nan, 0), (math.inf, 0), (1, math.nan), (0.0001, 0)],
)
def test_windows_that_make_no_sense(seconds, overlap):
    """More than half a window of overlap, or no window at all, is an error of the settings."""
    with pytest.raises(ValueError, match=r"overlap is|windows of"):
        windows(100, 100, seconds=seconds, overlap=overlap)


def test_hostile_files_fail_where_they_should(tmp_path: Path):
    """The files for larger tests are as bad, and as good, as they say."""
    stages = hostile.write_hostile(tmp_path / "bad", 1)
    assert len(stages) > 100
    assert set(stages) == {path.name for path in (tmp_path / "bad").iterdir()}
    sound_kinds = (".wav", ".mp3", ".ogg", ".opus", ".flac", ".aiff", ".caf")
    for name, stage in stages.items():
        if stage == "decode":
            content = (tmp_path / "bad" / name).read_bytes()
            with pytest.raises(Undecodable):
                decode_audio(content, 16_000) if name.endswith(sound_kinds) else decode_image(content)
    for name, modality in hostile.write_good(tmp_path / "good", 60, 1).items():
        content = (tmp_path / "good" / name).read_bytes()
        facts = decode_audio(content, 16_000)[1] if modality == "audio" else decode_image(content)[1]
        assert isinstance(facts, MediaFacts)

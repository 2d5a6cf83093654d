"""Raw bytes to sound, and where its windows lie."""

import io
import math
from collections.abc import Iterable, Iterator

import numpy as np
import soundfile
import soxr

from encoders import containers
from encoders.errors import RowError, Undecodable
from encoders.magic import seems
from encoders.spec import MediaFacts

MAX_SECONDS = 2 * 3600
"""Longest sound: 461 MB of samples at 16 kHz, 1.4 GB at 48 kHz, held at once; a longer one is to be split."""

MAX_AUDIO_BYTES = 512 * 2**20
"""Largest content: 50 minutes of stereo WAV at 44.1 kHz, or all of MAX_SECONDS as FLAC."""

MIN_RATE, MAX_RATE = 1_000, 768_000
"""Samples per second that recorders make, ultrasound included; others are damage."""

MAX_CHANNELS = 64
"""Most channels: those of the largest microphone arrays."""

_LOUDEST = 2.0**31
"""Floats are meant to lie within ±1; some are written on the scale of integers, none beyond theirs."""

_BLOCK = 2**16
"""Samples of each channel that are read at once."""

_TAKEN = "WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF and CAF"


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """Read from start to end only: soundfile seeks after each read if it can, which breaks MP3."""

    def seekable(self) -> bool:
        return False


class _Bytes(io.BytesIO):
    """libsndfile seeks anywhere in damaged files; an exception in its callback would only be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def decode_audio(content: bytes, rate: int) -> tuple[np.ndarray, MediaFacts]:
    """The sound in `content`, float32 (samples,) in mono at `rate`, and its facts; raises `Undecodable`.

    Taken are WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF and CAF, told by their first bytes. Integers
    become ±1, floats stay as they are. Channels are mixed to their mean, so that nothing can clip;
    what is in opposite phase on two channels cancels out. n samples become n * rate / original rate,
    within one and at least one, by libsoxr in high quality: flat up to 0.9 of the lower of both Nyquist
    frequencies, and more than 100 dB down from that frequency on.

    Facts are those of the original: seconds, rate, channels, format (wav, flac, ogg, opus, mp3, aiff,
    caf).

    Refused are NaN, infinite and absurdly loud samples, no samples, and files that are damaged or cut
    short: by the sizes in WAV, AIFF and CAF, the checksums and the end mark of Ogg, the frame checks of
    FLAC, the frames and their count in MP3, and the number of samples wherever the header has it. Not
    seen: damage within the data of WAV, AIFF and CAF, damage within a frame of MP3, and the end that
    is missing of a WAV or CAF written to a pipe (its size is unknown), or of an MP3 without a count of
    frames or a FLAC without a count of samples, cut between two frames. Of damage within MP3 frames the
    decoder writes a line to stderr.
    """
    if rate < 1:
        raise ValueError(f"rate is {rate}; give samples per second")
    if len(content) > MAX_AUDIO_BYTES:
        raise Undecodable(f"{len(content):,} bytes of audio, at most {MAX_AUDIO_BYTES:,} are taken per item")
    name = containers.kind(content)
    if name is None:
        raise Undecodable(f"this is {seems(content)}; audio is taken as {_TAKEN}")
    try:
        with _Stream(_Bytes(containers.sound(content, name))) as file:
            return _decoded(file, name, rate)
    except (RowError, MemoryError):
        raise
    except soundfile.LibsndfileError as error:
        raise Undecodable(f"the {name} is damaged or of a coding not taken: {error.error_string}") from error
    except Exception as error:
        raise Undecodable(f"the {name} is damaged: {type(error).__name__} {error}") from error


def _decoded(file: _Stream, name: str, rate: int) -> tuple[np.ndarray, MediaFacts]:
    original, channels, claimed = file.samplerate, file.channels, file.frames
    if not MIN_RATE <= original <= MAX_RATE:
        raise Undecodable(f"{original:,} samples per second; {MIN_RATE:,} to {MAX_RATE:,} are taken")
    if channels > MAX_CHANNELS:
        raise Undecodable(f"{channels:,} channels, at most {MAX_CHANNELS} are taken")
    most = MAX_SECONDS * original
    known = claimed < 2**62  # the largest number there is stands for an unknown length
    if known and claimed > most:
        raise Undecodable(
            f"{claimed / original:,.0f} seconds, at most {MAX_SECONDS:,} are taken per item; split it"
        )
    count = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal count
        for block in _mixed(file):
            count += len(block)
            if count > most:
                raise Undecodable(f"more than the {MAX_SECONDS:,} seconds that are taken per item; split it")
            yield block

    expected = math.ceil(claimed * rate / original) if known else 0
    samples = _joined(_resampled(counted(), original, rate), expected)
    if known and count != claimed:
        raise Undecodable(f"the {name} is damaged or cut short: {count:,} of {claimed:,} samples are there")
    if not count:
        raise Undecodable(f"the {name} has no samples")
    fmt = file.subtype.lower() if file.subtype == "OPUS" else name.lower()
    return samples, MediaFacts(format=fmt, seconds=count / original, rate=original, channels=channels)


def _mixed(file: _Stream) -> Iterator[np.ndarray]:
    """Blocks of the mean of all channels."""
    shares = np.full(file.channels, 1 / file.channels, np.float32)
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        if not (np.abs(block) <= _LOUDEST).all():  # false for NaN, too
            raise Undecodable("a sample is NaN, infinite or absurdly loud: damaged, or not audio at all")
        yield block @ shares


def _joined(blocks: Iterable[np.ndarray], expected: int) -> np.ndarray:
    """All blocks in one array; written in place, so that no more than one copy is held."""
    samples = np.empty(expected, np.float32)
    count = 0
    for block in blocks:
        if count + len(block) > len(samples):
            samples = np.concatenate([samples[:count], np.empty(max(count, len(block)), np.float32)])
        samples[count : count + len(block)] = block
        count += len(block)
    return samples if count == len(samples) else samples[:count].copy()


def _resampled(blocks: Iterable[np.ndarray], original: int, rate: int) -> Iterator[np.ndarray]:
    """The same as resampling all blocks joined; of the shortest sounds, which give none, one sample."""
    if original == rate:
        yield from blocks
        return
    resampler = soxr.ResampleStream(original, rate, 1, dtype="float32", quality="HQ")
    count, last = 0, np.zeros(0, np.float32)
    for block in blocks:
        made = resampler.resample_chunk(block)
        count += len(made)
        last = block[-1:]
        yield made
    made = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    yield made if count + len(made) else last


def windows(samples: int, rate: int, *, seconds: float, overlap: float) -> list[tuple[int, int]]:
    """Where to cut a sound of `samples` at `rate`: (start, end) of each window, in order.

    Windows are `seconds` long and begin every `seconds` - `overlap`; the last one is shifted back so
    that it ends with the sound and is as long as the others. So every sample is in a window, no window
    is longer than `seconds`, and none is shorter, but for a sound that is. No samples, no windows.
    Raises `ValueError` unless 0 <= overlap <= seconds / 2 and a window has at least one sample.
    """
    if not (math.isfinite(seconds) and 0 <= overlap <= seconds / 2):
        raise ValueError(f"overlap is {overlap} seconds; give 0 or more, and at most half of {seconds}")
    length = round(seconds * rate)
    if samples < 0 or length < 1:
        raise ValueError(f"{samples} samples in windows of {seconds} seconds at {rate} samples per second")
    if not samples:
        return []
    if samples <= length:
        return [(0, samples)]
    step = length - min(round(overlap * rate), (length - 1) // 2)
    starts = [*range(0, samples - length, step), samples - length]
    return [(start, start + length) for start in starts]

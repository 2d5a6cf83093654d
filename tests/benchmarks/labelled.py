"""Labelled images and sounds that we make ourselves: the same seed gives the same sets.

Each set comes in two parts without a class or a group in common: `dev`, on which the settings of the
built-in encoders were chosen, and `held`, on which they are reported.

The faces and the voices are those of Debian's packages in `NEEDS`; another version may draw or speak a
little differently.
"""

import colorsys
import io
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.signal import resample_poly

Part = Literal["dev", "held"]
RENDERINGS = 2
"""Of each class in each group, differently distorted."""
RATE = 16_000

NEEDS = (
    "apt-get install --no-install-recommends espeak-ng fonts-dejavu-core fonts-liberation fonts-freefont-ttf "
    "fonts-urw-base35 fonts-linuxlibertine fonts-lato fonts-inconsolata fonts-comic-neue "
    "fonts-roboto-unhinted fonts-quicksand fonts-cantarell"
)
"""What the sets are made with."""

_FONTS = Path("/usr/share/fonts")
_FACES: dict[Part, tuple[str, ...]] = {
    "dev": (
        "truetype/dejavu/DejaVuSans.ttf",
        "truetype/dejavu/DejaVuSerif-Bold.ttf",
        "truetype/liberation/LiberationMono-Regular.ttf",
        "truetype/liberation/LiberationSerif-Italic.ttf",
        "truetype/freefont/FreeSansBoldOblique.ttf",
        "truetype/lato/Lato-Regular.ttf",
        "opentype/urw-base35/C059-Roman.otf",
        "opentype/urw-base35/URWBookman-Demi.otf",
        "opentype/urw-base35/URWGothic-Book.otf",
        "opentype/linux-libertine/LinBiolinum_R.otf",
        "truetype/inconsolata/Inconsolata.otf",
        "opentype/comic-neue/ComicNeue-Regular.otf",
    ),
    "held": (
        "truetype/dejavu/DejaVuSansMono-Bold.ttf",
        "truetype/dejavu/DejaVuSerif.ttf",
        "truetype/liberation/LiberationSans-Bold.ttf",
        "truetype/freefont/FreeSerif.ttf",
        "truetype/freefont/FreeMono.ttf",
        "truetype/roboto/unhinted/RobotoTTF/Roboto-Regular.ttf",
        "truetype/quicksand/Quicksand-Regular.ttf",
        "opentype/urw-base35/NimbusSansNarrow-Regular.otf",
        "opentype/urw-base35/P052-Roman.otf",
        "opentype/urw-base35/Z003-MediumItalic.otf",
        "opentype/linux-libertine/LinLibertine_RI.otf",
        "opentype/cantarell/Cantarell-Regular.otf",
    ),
}
_GLYPHS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghijkmnqrty23456789&@#%$?!+=*{~§€£<"
_WORDS = (
    "apple", "bicycle", "candle", "dolphin", "elephant", "feather", "garden", "hammer", "island", "jacket",
    "kitchen", "lemon", "mountain", "needle", "orange", "pencil", "quarter", "river", "silver", "telephone",
    "umbrella", "village", "window", "yellow", "zebra", "anchor", "bridge", "castle", "desert", "engine",
    "forest", "guitar", "harbour", "insect", "jungle", "kettle", "ladder", "magnet", "notebook", "ocean",
    "palace", "rabbit", "saddle", "ticket", "uniform", "velvet", "whisper", "chimney",
)  # fmt: skip
_VOICES: dict[Part, tuple[str, ...]] = {
    "dev": (
        "en-us", "en-gb+f1", "en-gb-scotland+m2", "en-029+f3", "en-us-nyc+m4", "en-gb-x-rp+klatt3",
        "en-gb+steph", "en-us+whisper", "en-gb-x-gbclan+m7", "en-us+anika", "en-gb+Gene", "en-us+croak",
    ),
    "held": (
        "en-gb", "en-us+f2", "en-gb-scotland+f5", "en-029+m3", "en-us-nyc+f4", "en-gb-x-rp+m5",
        "en-us+linda", "en-gb+whisperf", "en-gb-x-gbcwmd+m8", "en-us+Alicia", "en-gb+klatt", "en-us+grandpa",
    ),
}  # fmt: skip
_SEED = 20_130


@dataclass(frozen=True)
class Labelled:
    """Items, `PIL.Image` in RGB or mono float32 samples at `RATE`; item i is of class `label[i]`.

    `group[i]` is what its nearest neighbours are likely to share with it besides: face, light or voice.
    """

    items: list[Any]
    label: np.ndarray
    group: np.ndarray


def glyphs(part: Part) -> Labelled:
    """33 characters × 12 faces × 2: any colours, turned, sheared, scaled, shifted, blurred and noisy."""
    chosen = _GLYPHS[0 if part == "dev" else 1 :: 2]
    faces = [_FONTS / face for face in _FACES[part]]
    missing = [face.name for face in faces if not face.exists()]
    if missing:
        raise SystemExit(f"no font {', '.join(missing)} in {_FONTS}; {NEEDS}")
    fonts = [ImageFont.truetype(face, 96) for face in faces]
    return _made(part, 0, len(chosen), len(fonts), lambda rng, c, g: _glyph(rng, chosen[c], fonts[g]))


def textures(part: Part) -> Labelled:
    """20 classes × 12 lights × 2: 5 patterns × 4 pairs of colours, so that neither alone tells the class.

    Phase, scale and angle of the pattern vary, and the light in brightness and tint.
    """
    first = 0 if part == "dev" else 5
    lights = np.random.default_rng([_SEED, 9, first]).uniform([0.55] * 3, [1.1] * 3, (12, 3))
    lights = 0.6 * lights.mean(axis=1, keepdims=True) + 0.4 * lights

    def one(rng: np.random.Generator, label: int, group: int) -> Image.Image:
        return _texture(rng, first + label // 4, label % 4 + (0.5 if first else 0.0), lights[group])

    return _made(part, 1, 20, 12, one)


def words(part: Part) -> Labelled:
    """24 words × 12 voices × 2 by espeak-ng, of any speed, pitch, gain and lead, in white or pink noise."""
    if shutil.which("espeak-ng") is None:
        raise SystemExit(f"no espeak-ng on the path; {NEEDS}")
    chosen, voices = _WORDS[0 if part == "dev" else 1 :: 2], _VOICES[part]
    return _made(part, 2, len(chosen), 12, lambda rng, c, g: _word(rng, chosen[c], voices[g]))


def events(part: Part) -> Labelled:
    """20 sounds other than speech × 12 rooms × 2: 5 kinds × 4 paces; each room has its echo and its tone."""
    first = 0 if part == "dev" else 5

    def one(rng: np.random.Generator, label: int, group: int) -> np.ndarray:
        room = np.random.default_rng([_SEED, 8, first, group])
        return _event(rng, first + label // 4, label % 4, room)

    return _made(part, 3, 20, 12, one)


def _made(
    part: Part, number: int, classes: int, groups: int, one: Callable[[np.random.Generator, int, int], Any]
) -> Labelled:
    """Every class in every group, `RENDERINGS` times, each from a seed of its own."""
    grid = [(c, g, r) for c in range(classes) for g in range(groups) for r in range(RENDERINGS)]
    items = [one(np.random.default_rng([_SEED, number, part == "held", *at]), at[0], at[1]) for at in grid]
    return Labelled(items, np.array([c for c, _, _ in grid]), np.array([g for _, g, _ in grid]))


def _glyph(rng: np.random.Generator, glyph: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    big = 192
    mask = Image.new("L", (big, big))
    ImageDraw.Draw(mask).text((big // 2, big // 2), glyph, 255, font, anchor="mm")
    turn, shear, scale = np.radians(rng.uniform(-12, 12)), rng.uniform(-0.15, 0.15), rng.uniform(0.75, 1.2)
    width, height = (int(v) for v in rng.integers(80, 129, 2))
    there = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [[1, shear], [0, 1]]
    back = np.linalg.inv(there) / scale
    middle = np.array([width, height]) * (0.5 + rng.uniform(-0.08, 0.08, 2))
    shift = big / 2 - back @ middle
    onto = (*back[0], shift[0], *back[1], shift[1])
    mask = mask.transform((width, height), Image.Transform.AFFINE, onto, Image.Resampling.BICUBIC)
    mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))
    ink, ground = rng.uniform(0, 1, (2, 3))
    while abs((ink - ground) @ [0.299, 0.587, 0.114]) < 0.25:
        ink, ground = rng.uniform(0, 1, (2, 3))
    share = np.asarray(mask, dtype=np.float64)[..., None] / 255
    return _image(share * ink + (1 - share) * ground, rng, noise=rng.uniform(0, 0.08))


def _texture(rng: np.random.Generator, pattern: int, palette: float, light: np.ndarray) -> Image.Image:
    width, height = (int(v) for v in rng.integers(80, 129, 2))
    turn, size = np.radians(rng.uniform(-15, 15)), rng.uniform(10, 14)
    y, x = np.mgrid[:height, :width] / size
    x, y = np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y
    x, y = x + rng.uniform(0, 9), y + rng.uniform(0, 9)
    row = np.floor(y)
    share = {
        0: lambda: 0.5 + 0.5 * np.sin(2 * np.pi * x),
        1: lambda: (np.floor(x) + row) % 2,
        2: lambda: np.hypot(x % 1 - 0.5, y % 1 - 0.5) < 0.3,
        3: lambda: (y % 1 < 0.15) | ((x / 2 + row % 2 / 2) % 1 < 0.08),
        4: lambda: _cloud(rng, (height, width), size / 2),
        5: lambda: 0.5 + 0.5 * np.sin(2 * np.pi * y),
        6: lambda: (x % 1 < 0.2) | (y % 1 < 0.2),
        7: lambda: np.abs((x % 1) - 0.5) + np.abs((y % 1) - 0.5) < 0.35,
        8: lambda: (y / 2 + np.abs(x % 1 - 0.5)) % 0.5 < 0.25,
        9: lambda: _cloud(rng, (height, width), size / 5),
    }[pattern]()
    hue = palette / 4
    ink, ground = (np.array(colorsys.hls_to_rgb(h % 1, 0.5, 0.6)) for h in (hue, hue + 0.3))
    mixed = np.asarray(share, dtype=np.float64)[..., None]
    return _image((mixed * ink + (1 - mixed) * ground) * light, rng, noise=rng.uniform(0.01, 0.06))


def _cloud(rng: np.random.Generator, shape: tuple[int, int], size: float) -> np.ndarray:
    """Noise with grain of about `size` pixels, from 0 to 1."""
    at = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    grain = np.fft.ifft2(np.fft.fft2(rng.standard_normal(shape)) * np.exp(-((at * size * 2) ** 2))).real
    return np.clip(0.5 + grain / grain.std() / 4, 0, 1)


def _image(rgb: np.ndarray, rng: np.random.Generator, noise: float) -> Image.Image:
    noisy = np.clip(rgb + noise * rng.standard_normal(rgb.shape), 0, 1)
    return Image.fromarray(np.rint(noisy * 255).astype(np.uint8))


def _word(rng: np.random.Generator, word: str, voice: str) -> np.ndarray:
    speed, pitch = rng.integers(120, 221), rng.integers(25, 76)
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
    spoken = subprocess.run(command, capture_output=True, check=True).stdout
    samples, rate = soundfile.read(io.BytesIO(_sized(spoken)), dtype="float64")
    samples = resample_poly(samples, RATE // 50, rate // 50)
    before, after = rng.integers(0, int(0.4 * RATE), 2)
    return _heard(rng, np.pad(samples, (before, after)), rng.uniform(5, 25))


def _sized(wave: bytes) -> bytes:
    """A WAVE file written into a pipe, with the sizes that the writer could not go back to fill in."""
    size = len(wave).to_bytes
    data = (len(wave) - 44).to_bytes
    return wave[:4] + size(4, "little") + wave[8:40] + data(4, "little") + wave[44:]


def _event(rng: np.random.Generator, kind: int, pace: int, room: np.random.Generator) -> np.ndarray:
    n = int(rng.uniform(1.0, 3.0) * RATE)
    t = np.arange(n) / RATE
    per_s = 2.0 ** (pace + rng.uniform(-0.2, 0.2) + 0.5)  # 1.4, 2.8, 5.7, 11.3 a second
    turn = (t * per_s + rng.uniform()) % 1
    high = 2 ** rng.uniform(-0.2, 0.2)
    sharp, soft = np.exp(-turn * 12), 0.5 - 0.5 * np.cos(2 * np.pi * turn)
    hiss = rng.standard_normal(n)

    def tone(hz: np.ndarray | float) -> np.ndarray:
        return np.sin(2 * np.pi * np.cumsum(np.broadcast_to(hz, n)) / RATE)

    rough = np.convolve(hiss, np.hanning(32), "same")
    made = {
        0: lambda: hiss * sharp,
        1: lambda: tone(600 * high) * soft,
        2: lambda: tone(400 * high * 2 ** (2 * turn)),
        3: lambda: rough * soft,
        4: lambda: sum(tone(250 * high * k) / k for k in (1, 2, 3, 4, 5)) * sharp,
        5: lambda: rough * sharp,
        6: lambda: tone(1500 * high) * soft,
        7: lambda: tone(1600 * high * 2 ** (-2 * turn)),
        8: lambda: hiss * soft,
        9: lambda: sum(tone(180 * high * k) / k for k in (1, 3, 5, 7)) * sharp,
    }[kind]()
    echo = room.standard_normal(RATE // 4) * np.exp(-np.arange(RATE // 4) / RATE / room.uniform(0.01, 0.06))
    echo[0] = 4
    tilt = room.uniform(-0.5, 0.5)
    heard = np.convolve(np.convolve(np.asarray(made), echo), [1, tilt])[:n]
    return _heard(rng, heard, rng.uniform(10, 30))


def _heard(rng: np.random.Generator, samples: np.ndarray, snr: float) -> np.ndarray:
    """With noise `snr` dB below, white or pink, and a gain of −30 to 0 dB of full scale."""
    shape = np.fft.rfft(rng.standard_normal(len(samples)))
    if rng.uniform() < 0.5:
        shape /= np.sqrt(np.arange(len(shape)) + 1.0)
    noise = np.fft.irfft(shape, len(samples))
    loud = np.sqrt(np.mean(samples[np.abs(samples) > 0.1 * np.abs(samples).max()] ** 2))
    noisy = samples + noise * (loud / noise.std() * 10 ** (-snr / 20))
    scaled: np.ndarray = noisy / np.abs(noisy).max() * 10 ** (rng.uniform(-30, 0) / 20)
    return scaled.astype(np.float32)


SETS: dict[str, Callable[[Part], Labelled]] = {
    "glyphs": glyphs,
    "textures": textures,
    "words": words,
    "events": events,
}

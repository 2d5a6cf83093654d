"""What the demo looks at and listens to: glyphs in several faces, and notes of several instruments."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw, ImageFont

GLYPHS = "ABCDEFGHKLMNRSTXYZ2345678"
FACES = ("plain", "bold", "slanted", "outlined", "wide", "narrow", "chalk", "neon")
INSTRUMENTS = ("flute", "clarinet", "organ", "bell", "harp")
PITCHES = tuple(range(48, 88, 2))
"""MIDI numbers of the notes: C3 to D♯6."""

_SIDE = 160
_RATE = 22_050
_SECONDS = 1.2


def write_glyphs(folder: Path) -> int:
    """One image a glyph and face, as PNG, JPEG and WebP in turn; how many."""
    count = 0
    for face in FACES:
        (folder / face).mkdir(parents=True)
        for glyph in GLYPHS:
            suffix = (".png", ".jpg", ".webp")[count % 3]
            _glyph(glyph, face).save(folder / face / f"{glyph}{suffix}")
            count += 1
    return count


def write_notes(folder: Path) -> int:
    """One sound an instrument and pitch, as WAV, FLAC and Ogg in turn; how many."""
    count = 0
    for instrument in INSTRUMENTS:
        (folder / instrument).mkdir(parents=True)
        for pitch in PITCHES:
            suffix = (".wav", ".flac", ".ogg")[count % 3]
            soundfile.write(folder / instrument / f"{pitch}{suffix}", _note(instrument, pitch), _RATE)
            count += 1
    return count


def _glyph(glyph: str, face: str) -> Image.Image:
    ink, ground = {"chalk": ("#e8e6d9", "#2d4739"), "neon": ("#39ffd0", "#1a1033")}.get(
        face, ("#1c2024", "#f7f7f5")
    )
    font = ImageFont.load_default(size=112)
    stroke = {"bold": 5, "outlined": 4, "neon": 1}.get(face, 0)
    image = Image.new("RGB", (_SIDE, _SIDE), ground)
    fill = ground if face == "outlined" else ink
    ImageDraw.Draw(image).text(
        (_SIDE / 2, _SIDE / 2), glyph, fill, font, anchor="mm", stroke_width=stroke, stroke_fill=ink
    )
    # x of the source for x, y of the result: slanted by a third, wider, narrower
    across = {"slanted": (1, 0.33, -0.33 * _SIDE / 2), "wide": (0.7, 0, 0.15 * _SIDE)}
    across["narrow"] = (1.6, 0, -0.3 * _SIDE)
    if face in across:
        image = image.transform(
            image.size, Image.Transform.AFFINE, (*across[face], 0, 1, 0),
            Image.Resampling.BICUBIC, fillcolor=ground,
        )  # fmt: skip
    return image


def _note(instrument: str, pitch: int) -> np.ndarray:
    """Partials of an instrument, with its attack and decay."""
    time = np.arange(int(_SECONDS * _RATE)) / _RATE
    partials, attack, decay = _TIMBRES[instrument]
    hertz = 440.0 * 2 ** ((pitch - 69) / 12)
    sound = np.zeros_like(time)
    for ratio, loudness in partials:
        if hertz * ratio < 0.45 * _RATE:
            sound += loudness * np.sin(2 * np.pi * hertz * ratio * time) * np.exp(-time * decay * ratio**0.5)
    shaped: np.ndarray = sound * np.minimum(1.0, time / attack) * np.minimum(1.0, (_SECONDS - time) / 0.05)
    shaped *= 0.5 / np.abs(shaped).max()
    return shaped


def _harmonics(count: int, step: int, loudness: Callable[[int], float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(n), loudness(n)) for n in range(1, count + 1, step))


_TIMBRES: dict[str, tuple[tuple[tuple[float, float], ...], float, float]] = {
    "flute": (((1.0, 1.0), (2.0, 0.25), (3.0, 0.06)), 0.09, 0.3),
    "clarinet": (_harmonics(13, 2, lambda n: 1 / n), 0.04, 0.3),
    "organ": (((0.5, 0.5), (1.0, 1.0), (2.0, 0.7), (4.0, 0.5), (8.0, 0.3)), 0.02, 0.0),
    "bell": (((0.56, 0.6), (0.92, 0.8), (1.19, 1.0), (1.71, 0.7), (2.74, 0.5), (3.76, 0.3)), 0.004, 2.2),
    "harp": (_harmonics(10, 1, lambda n: 1 / n**1.3), 0.004, 3.0),
}
"""Partials (times the pitch, loudness), seconds of attack, decay a second: roughly what makes each."""

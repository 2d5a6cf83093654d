"""What a browser can show of raw media: a small JPEG of an image, an MP3 of a piece of audio."""

import io

import numpy as np
import soundfile
from PIL import Image

from encoders.pictures import decode_image
from encoders.sounds import decode_audio

SIDE = 320
"""Longer side of a thumbnail in pixels."""

RATE = 24_000
"""Samples a second of a clip, which is mono: enough to hear what it is."""


def thumbnail(content: bytes) -> bytes:
    """The image in `content` as a JPEG of at most 320 × 320 pixels. Raises `Undecodable`."""
    image, _ = decode_image(content, least=SIDE)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82)
    return out.getvalue()


def clip(content: bytes, start: int, end: int | None) -> bytes:
    """The audio in `content` from `start` to `end` (milliseconds; None: to its end) as an MP3.

    Raises `Undecodable`.
    """
    samples, _ = decode_audio(content, RATE)
    stop = len(samples) if end is None else round(end * RATE / 1000)
    piece = samples[round(start * RATE / 1000) : stop]
    out = io.BytesIO()
    soundfile.write(out, np.clip(piece, -1.0, 1.0), RATE, format="MP3", subtype="MPEG_LAYER_III")
    return out.getvalue()

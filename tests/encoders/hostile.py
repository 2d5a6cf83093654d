"""Pictures and sounds to test with: good ones in every format, and whatever may go wrong with a file."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import soundfile
from PIL import Image

RATE = 44_100


def picture(width: int = 80, height: int = 60, seed: int = 0) -> Image.Image:
    """Smooth colours with a noisy patch, so that every coder has something to do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y + seed) * 2 % 256], -1).astype(np.uint8)
    patch = pixels[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]
    patch[...] = rng.integers(0, 256, patch.shape)
    return Image.fromarray(pixels)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The file that Pillow writes of `image`."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int,
    height: int,
    raw: bytes,
    *,
    bits: int = 8,
    colour: int = 2,
    interlaced: int = 0,
    more: bytes = b"",
) -> bytes:
    """A PNG by hand: `raw` are its rows with their filter bytes, `more` the chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    parts = (chunk(b"IHDR", header), more, chunk(b"IDAT", zlib.compress(raw, 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def interlaced(image: Image.Image) -> bytes:
    """The rows of an RGB image in the order of Adam7, with their filter bytes."""
    pixels, raw = np.asarray(image), b""
    starts = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    for left, top, right, down in starts:
        part = pixels[top::down, left::right]
        raw += b"".join(b"\0" + row.tobytes() for row in part if row.size)
    return raw


def bomb(side: int) -> bytes:
    """A grey PNG of `side` × `side` pixels, all there, of a thousandth of the bytes."""
    return png(side, side, bytes((side // 8 + 1) * side), bits=1, colour=0)


def tiff(tags: dict[int, tuple[int, ...]], data: bytes) -> bytes:
    """A little-endian TIFF by hand: its tags, each with its 32-bit values; `data` stands at byte 8."""
    entries, more = [], b""
    start = 8 + len(data) + 2 + 12 * len(tags) + 4  # of the values that do not fit into their entry
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(packed) > 4:
            packed, more = struct.pack("<I", start + len(more)), more + packed
        entries.append(struct.pack("<HHI", tag, 4, len(values)) + packed)
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + more


def grey_tiff(width: int, height: int, bits: int, data: bytes, **more: tuple[int, ...]) -> bytes:
    """One strip of grey; `more` are tags like `t262=(0,)`."""
    tags = {256: (width,), 257: (height,), 258: (bits,), 259: (1,), 262: (1,), 273: (8,), 277: (1,)}
    tags |= {278: (height,), 279: (len(data),)} | {int(name[1:]): values for name, values in more.items()}
    return tiff(tags, data)


def pictures(seed: int = 0, width: int = 80, height: int = 60) -> dict[str, bytes]:
    """The same picture in every format that is taken, by file name."""
    image = picture(width, height, seed)
    clear = image.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return {
        "baseline.jpg": saved(image, "JPEG", quality=90),
        "progressive.jpg": saved(image, "JPEG", progressive=True),
        "restart.jpg": saved(image, "JPEG", restart_marker_rows=1),
        "grey.jpg": saved(image.convert("L"), "JPEG"),
        "cmyk.jpg": saved(image.convert("CMYK"), "JPEG"),
        "rgb.png": saved(image, "PNG"),
        "rgba.png": saved(clear, "PNG"),
        "palette.png": saved(image.quantize(32), "PNG", transparency=3),
        "bilevel.png": saved(image.convert("1"), "PNG"),
        "grey-alpha.png": saved(clear.convert("LA"), "PNG"),
        "grey16.png": saved(deep, "PNG"),
        "interlaced.png": png(width, height, interlaced(image), interlaced=1),
        "animated.png": saved(image, "PNG", save_all=True, append_images=[image.rotate(90)]),
        "lossy.webp": saved(image, "WEBP"),
        "lossless.webp": saved(clear, "WEBP", lossless=True),
        "animated.webp": saved(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
        "still.gif": saved(image.quantize(64), "GIF"),
        "animated.gif": saved(
            image.quantize(64), "GIF", save_all=True, append_images=[image.rotate(90).quantize(64)]
        ),
        "rgb.bmp": saved(image, "BMP"),
        "palette.bmp": saved(image.quantize(64), "BMP"),
        "raw.tiff": saved(image, "TIFF"),
        "lzw.tiff": saved(image, "TIFF", compression="tiff_lzw"),
        "deflate.tiff": saved(clear, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tiff": saved(image, "TIFF", compression="jpeg"),
        "packbits.tiff": saved(image.convert("L"), "TIFF", compression="packbits"),
        "fax.tiff": saved(image.convert("1"), "TIFF", compression="group4"),
        "cmyk.tiff": saved(image.convert("CMYK"), "TIFF"),
        "grey16.tiff": saved(deep, "TIFF", compression="tiff_lzw"),
        "pages.tiff": saved(image, "TIFF", save_all=True, append_images=[image.rotate(90)]),
        "rgb.avif": saved(image, "AVIF", speed=10),
        "rgba.avif": saved(clear, "AVIF", speed=10),
    }


def wave(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """A few notes over faint noise, float64 (samples, channels) within ±0.9."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    notes = rng.uniform(100, 3_000, 3)
    mono = sum(0.25 * np.sin(2 * np.pi * note * t) for note in notes) + rng.normal(0, 0.01, len(t))
    return np.stack([mono * (1 - 0.3 * c) for c in range(channels)], 1)


def written(samples: np.ndarray, rate: int, kind: str, subtype: str, **options: Any) -> bytes:
    """The file that libsndfile writes of `samples`."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=subtype, **options)
    return out.getvalue()


SOUNDS = {
    "u8.wav": ("WAV", "PCM_U8"),
    "16.wav": ("WAV", "PCM_16"),
    "24.wav": ("WAV", "PCM_24"),
    "32.wav": ("WAV", "PCM_32"),
    "float.wav": ("WAV", "FLOAT"),
    "double.wav": ("WAV", "DOUBLE"),
    "mulaw.wav": ("WAV", "ULAW"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "extensible.wav": ("WAVEX", "PCM_16"),
    "large.wav": ("RF64", "PCM_16"),
    "16.flac": ("FLAC", "PCM_16"),
    "24.flac": ("FLAC", "PCM_24"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.opus": ("OGG", "OPUS"),
    "layer3.mp3": ("MP3", "MPEG_LAYER_III"),
    "16.aiff": ("AIFF", "PCM_16"),
    "float.aiff": ("AIFF", "FLOAT"),
    "16.caf": ("CAF", "PCM_16"),
    "alac.caf": ("CAF", "ALAC_16"),
}
"""File name, container and coding of every kind of sound that is taken and can be written here."""


def sounds(seed: int = 0, seconds: float = 1.0, channels: int = 2) -> dict[str, bytes]:
    """The same sound in every format that is taken, by file name."""
    made = {}
    for name, (kind, subtype) in SOUNDS.items():
        rate = 48_000 if subtype == "OPUS" else RATE
        made[name] = written(wave(seconds, rate, channels, seed), rate, kind, subtype)
    return made


def flipped(content: bytes, rng: random.Random, flips: int = 1) -> bytes:
    """`content` with single bits turned over."""
    out = bytearray(content)
    for _ in range(flips):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def claims(side: int) -> dict[str, bytes]:
    """Small files whose headers claim `side` × `side` pixels."""
    good = pictures()
    size16 = struct.pack("<HH", side, side)
    jpeg, gif, webp, bmp = good["baseline.jpg"], good["still.gif"], good["lossy.webp"], good["rgb.bmp"]
    frame = jpeg.index(b"\xff\xc0") + 5
    at = gif.index(b"\x2c", 13 + 3 * 64) + 5
    key = webp.index(b"\x9d\x01\x2a") + 3
    return {
        "claims.jpg": jpeg[:frame] + struct.pack(">HH", side, side) + jpeg[frame + 4 :],
        "claims.gif": gif[:6] + size16 + gif[10:at] + size16 + gif[at + 4 :],
        "claims.webp": webp[:key] + size16 + webp[key + 4 :],
        "claims.bmp": bmp[:18] + struct.pack("<ii", side, side) + bmp[26:],
        "claims.tiff": grey_tiff(side, side, 8, bytes(64)),
    }

"""Pictures and sounds to test with: good ones in every format, and whatever may go wrong with a file."""

import io
import os
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
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
        "stereo.jpg": saved(image, "MPO", save_all=True, append_images=[image.rotate(90)]),
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


def vbr_mp3(seconds: float, rate: int = RATE, channels: int = 1) -> bytes:
    """An MP3 whose frames differ in length."""
    out = io.BytesIO()
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": 0.6}
    with soundfile.SoundFile(out, "w", rate, channels, bitrate_mode="VARIABLE", **options) as file:
        file.write(wave(seconds, rate, channels))
    return out.getvalue()


def wav(
    rate: int, channels: int, data: bytes, *, bits: int = 16, claimed: int | None = None, coding: int = 1
) -> bytes:
    """A WAV by hand; `claimed` is the size that its header gives for `data`."""
    align = channels * bits // 8
    coding_chunk = struct.pack(
        "<4sIHHIIHH",
        b"fmt ",
        16,
        coding,
        channels & 0xFFFF,
        rate,
        rate * align & 0xFFFFFFFF,
        align & 0xFFFF,
        bits,
    )
    size = len(data) if claimed is None else claimed
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE")
        + coding_chunk
        + struct.pack("<4sI", b"data", size)
        + data
    )


def _broken_pictures(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    good = pictures(rng.randrange(1_000))
    for name, content in good.items():
        stem, kind = name.split(".")
        yield f"{stem}-cut.{kind}", content[: len(content) // 3]
        yield f"{stem}-header.{kind}", content[: rng.randrange(8, 24)]
    for name in (n for n in good if n.endswith(".png")):
        yield f"flipped-{name}", flipped(good[name], rng)
    for name, content in claims(12_000).items():
        yield name, content
    yield "bomb.png", bomb(30_000)
    yield "bomb-small.png", bomb(6_500)
    yield "rows-missing.png", png(10, 10, b"\0" * 93)
    yield "tiles.tiff", grey_tiff(8, 8, 8, bytes(64), t322=(60_000,), t323=(60_000,), t324=(8,), t325=(64,))
    yield "no-strips.tiff", grey_tiff(8, 8, 8, bytes(64), t278=(4,))
    yield "numbers.tiff", grey_tiff(1, 1, 32, bytes(4), t339=(2,))
    yield "nan.tiff", grey_tiff(1, 1, 32, struct.pack("<f", float("nan")), t339=(3,))
    yield "empty.png", b""
    yield "zeros.jpg", bytes(5_000)
    yield "noise.jpg", rng.randbytes(5_000)
    yield "noise-after-head.jpg", good["baseline.jpg"][:20] + rng.randbytes(5_000)
    yield "page.jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    yield "drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
    yield "entities.png", b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><svg>&a;</svg>'
    yield "document.webp", b"%PDF-1.7\n1 0 obj\n"
    yield "photo.avif", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + rng.randbytes(100)
    yield "sound.png", wav(8_000, 1, bytes(800))
    yield "pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64
    yield "program.bmp", b"BM" + rng.randbytes(40)
    yield "postscript.tiff", b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (w) file\n"


def _broken_sounds(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    good = sounds(rng.randrange(1_000), seconds=0.5)
    for name, content in good.items():
        stem, kind = name.split(".")
        yield f"{stem}-cut.{kind}", content[: len(content) // 2]
    for name in ("vorbis.ogg", "opus.opus"):
        yield f"flipped-{name}", flipped(good[name], rng)
    yield "end-missing.ogg", good["vorbis.ogg"][: good["vorbis.ogg"].rindex(b"OggS")]
    yield "joined.ogg", good["vorbis.ogg"] + good["opus.opus"]
    mp3 = good["layer3.mp3"]
    yield "hole.mp3", mp3[: len(mp3) // 2] + bytes(1_000) + mp3[len(mp3) // 2 + 1_000 :]
    yield "nothing.wav", wav(8_000, 1, b"")
    yield "claims.wav", wav(8_000, 1, bytes(800), claimed=2**30)
    yield "1-hertz.wav", wav(1, 1, bytes(800))
    yield "10-megahertz.wav", wav(10_000_000, 1, bytes(800))
    yield "channels.wav", wav(8_000, 200, bytes(4_000))
    yield "no-channels.wav", wav(8_000, 0, bytes(800))
    yield "coding.wav", wav(8_000, 1, bytes(800), coding=0x1234)
    for name, value in (("nan", float("nan")), ("infinite", float("inf")), ("loud", 1e30)):
        yield f"{name}.wav", wav(8_000, 1, struct.pack("<f", value) * 100, bits=32, coding=3)
    yield "empty.wav", b""
    yield "zeros.flac", bytes(5_000)
    yield "noise.mp3", rng.randbytes(5_000)
    yield "noise-after-head.flac", good["16.flac"][:60] + rng.randbytes(5_000)
    yield "noise-after-tag.mp3", b"ID3\4\0\0\0\0\0\0" + bytes(5_000)
    yield "page.mp3", b"<html><head><title>Sign in</title></head></html>"
    yield "film.wav", b"\0\0\0\x20ftypisom" + rng.randbytes(100)
    yield "song.mp3", b"\0\0\0\x20ftypM4A " + rng.randbytes(100)
    yield "radio.ogg", b"\x1aE\xdf\xa3" + rng.randbytes(100)
    yield "picture.wav", saved(picture(), "PNG")
    yield "text.ogg", b"Lorem ipsum dolor sit amet. " * 20


_ODD_NAMES = (
    "two words",
    "new\nline",
    "uml\N{LATIN SMALL LETTER A WITH DIAERESIS}ut",
    "quote'\"",
    "-dash",
    "%2e%2e",
    "a" * 200,
)


def write_hostile(folder: Path, seed: int) -> dict[str, str]:
    """Write more than 100 files that are to be refused: names, and the stage that they fail in.

    Contents fail to decode, each as what its name says; what is no file within `folder` fails to be
    pulled. What depends on permissions is left out for a user who has them all.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    stages = {}
    for name, content in (*_broken_pictures(rng), *_broken_sounds(rng)):
        (folder / name).write_bytes(content)
        stages[name] = "decode"
    for odd in _ODD_NAMES:
        (folder / f"{odd}.png").write_bytes(rng.randbytes(100))
        stages[f"{odd}.png"] = "decode"
    outside = folder.parent / f"{folder.name}-outside.png"
    outside.write_bytes(saved(picture(), "PNG"))
    for name, target in {
        "outside.png": outside,
        "endless.wav": Path("/dev/zero"),
        "dangling.png": folder / "nowhere.png",
        "loop-a.png": folder / "loop-b.png",
        "loop-b.png": folder / "loop-a.png",
        "itself.wav": folder / "itself.wav",
        "folder.jpg": folder.parent,
    }.items():
        (folder / name).symlink_to(target)
        stages[name] = "pull"
    (folder / "directory.png").mkdir()
    os.mkfifo(folder / "pipe.wav")
    stages |= {"directory.png": "pull", "pipe.wav": "pull"}
    if os.geteuid() != 0:
        (folder / "unreadable.png").write_bytes(saved(picture(), "PNG"))
        (folder / "unreadable.png").chmod(0)
        stages["unreadable.png"] = "pull"
    return stages


def write_good(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Write `count` good files in all formats in turn: names, and their modality."""
    folder.mkdir(parents=True, exist_ok=True)
    modalities: dict[str, str] = {}
    turn = 0
    while len(modalities) < count:
        made = {"image": pictures(seed + turn), "audio": sounds(seed + turn)}
        for modality, files in made.items():
            for name, content in files.items():
                if len(modalities) < count:
                    (folder / f"{turn:04}-{name}").write_bytes(content)
                    modalities[f"{turn:04}-{name}"] = modality
        turn += 1
    return modalities

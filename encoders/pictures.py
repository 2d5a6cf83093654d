"""Raw bytes to a picture."""

import contextlib
import ctypes
import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms, ImageFile, _imaging
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from encoders.errors import RowError, Undecodable
from encoders.magic import seems
from encoders.spec import MediaFacts

MAX_PIXELS = 40_000_000
"""Largest picture: Pillow holds 4 bytes a pixel, and up to three copies while colours are converted."""

MAX_IMAGE_BYTES = 128 * 2**20
"""Largest content: a picture of MAX_PIXELS in 8-bit RGB without any compression fits."""

_MAX_SCANS = 100
"""Most passes of a progressive JPEG; encoders make about ten, and each costs a walk over all pixels."""

_READERS: tuple[tuple[int, bytes, type[ImageFile.ImageFile]], ...] = (
    (0, b"\xff\xd8\xff", JpegImageFile),
    (0, b"\x89PNG\r\n\x1a\n", PngImageFile),
    (8, b"WEBP", WebPImageFile),
    (0, b"GIF8", GifImageFile),
    (0, b"II*\0", TiffImageFile),
    (0, b"MM\0*", TiffImageFile),
    (0, b"II+\0", TiffImageFile),
    (0, b"MM\0+", TiffImageFile),
    (4, b"ftypavif", AvifImageFile),
    (4, b"ftypavis", AvifImageFile),
    (0, b"BM", BmpImageFile),
)
_TAKEN = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF"

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # stuffing and restarts left out

_TILE_WIDTH, _TILE_LENGTH, _BITS, _PHOTOMETRIC = 322, 323, 258, 262  # tags of TIFF
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _set_up_pillow() -> None:
    """Settings of the process, made once: a setting per picture would race with other threads.

    The limits below do not rest on them; they guard what Pillow allocates before it tells the size.
    """
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # Pillow warns of broken metadata only, which is not looked at; its errors are exceptions
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    # Pillow logs some of its errors, too; without any handler Python would print them
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # libtiff writes what is wrong with a file to stderr as well; where it is linked statically, it may
    silence = getattr(ctypes.CDLL(_imaging.__file__), "TIFFSetErrorHandler", None)
    if silence is not None:
        silence(None)


_set_up_pillow()


def decode_image(content: bytes, *, least: int = 0) -> tuple[Image.Image, MediaFacts]:
    """The picture in `content` as a viewer shows it, in RGB, and its facts; raises `Undecodable`.

    Taken are JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF, told by their first bytes; of an animation or
    of several pages the first. The picture is turned as its EXIF orientation says, transparency is
    laid on white, 16 bits a channel are reduced to their high byte, and an embedded ICC profile is
    converted to sRGB, unless it is broken. Colour descriptions other than ICC are not followed. Float
    pixels are taken if they lie within 0 and 1; other numbers have no agreed white and are refused.

    With `least` a JPEG may come reduced by 2, 4 or 8, its shorter side not below `least`; the facts
    give the full size. The picture returned carries no metadata.

    Refused are files that are damaged or cut short: PNG by its checksums, the others where the decoder
    stumbles. Not seen: damage within the data of JPEG, GIF, BMP or uncompressed TIFF that still
    decodes, such as a JPEG cut short and ended properly, and what lies behind the first frame.
    """
    if len(content) > MAX_IMAGE_BYTES:
        raise Undecodable(f"{len(content):,} bytes of image, at most {MAX_IMAGE_BYTES:,} are taken per item")
    reader = _reader(content)
    if reader is None:
        raise Undecodable(f"this is {seems(content)}; images are taken as {_TAKEN}")
    name = str(reader.format)
    try:
        _require_sound(content, reader)
        with reader(io.BytesIO(content)) as image:
            return _decoded(image, content, least)
    except (RowError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Undecodable(f"more than the {MAX_PIXELS:,} pixels that are taken per image") from error
    except Exception as error:
        raise Undecodable(f"the {name} is damaged or cut short: {_why(error)}") from error


def _why(error: Exception) -> str:
    """Pillow's own words, unless they are those of Python about an index or a buffer."""
    cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    if isinstance(cause, struct.error | LookupError | TypeError | AssertionError):
        return f"its header cannot be read ({type(cause).__name__})"
    return str(cause) or type(cause).__name__


def _reader(content: bytes) -> type[ImageFile.ImageFile] | None:
    if content.startswith((b"ftypmif1", b"ftypmsf1"), 4) and b"avif" in content[8:64]:
        return AvifImageFile  # some encoders name the general brand, which HEIC has as well, first
    return next((reader for at, mark, reader in _READERS if content.startswith(mark, at)), None)


def _decoded(image: ImageFile.ImageFile, content: bytes, least: int) -> tuple[Image.Image, MediaFacts]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Undecodable(
            f"{width:,} × {height:,} pixels, at most {MAX_PIXELS:,} pixels are taken per image; reduce it"
        )
    name = str(image.format).lower()
    turn = _TURNS.get(_orientation(image.info.get("exif")))  # TIFF: Pillow has turned it already
    if isinstance(image, TiffImageFile):
        _require_tiles(image)
        turn = None
    if least > 0 and isinstance(image, JpegImageFile):
        image.draft(None, (least, least))
    image.load()
    if isinstance(image, PngImageFile):
        _require_rows(image, content)
    shown = _in_rgb(image)
    if turn is not None:
        shown = shown.transpose(turn)
        if turn in (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]):
            width, height = height, width
    elif isinstance(shown, ImageFile.ImageFile):
        shown = shown.copy()  # which lets go of the file
    shown.info.clear()  # its orientation and profile have been applied and are not to be so again
    return shown, MediaFacts(format=name, width=width, height=height)


def _require_sound(content: bytes, reader: type[ImageFile.ImageFile]) -> None:
    """What Pillow does not look at: the checksums of a PNG, the cost of a progressive JPEG."""
    if reader is PngImageFile:
        for _ in _chunks(content):
            pass
    if reader is JpegImageFile and (scans := _scans(content)) > _MAX_SCANS:
        raise Undecodable(f"the JPEG has {scans:,} scans, at most {_MAX_SCANS} are taken: a trap")


def _scans(jpeg: bytes) -> int:
    """Passes over the picture, up to its end mark; what is behind that, such as a film, is not looked at."""
    at, scans = 2, 0
    while found := _JPEG_MARKER.search(jpeg, at):
        at = found.end()
        if jpeg[at - 1] == 0xD9:
            break
        scans += jpeg[at - 1] == 0xDA
        at += int.from_bytes(jpeg[at : at + 2], "big")  # over the segment, which may hold a thumbnail
    return scans


def _chunks(png: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and data of each chunk up to the end mark; raises `Undecodable` if one is damaged or missing."""
    view = memoryview(png)
    at, kind = 8, b""
    while kind != b"IEND":
        if at + 12 > len(png):
            raise Undecodable(f"the PNG is cut short: it ends at byte {len(png):,} without its end mark")
        length = int.from_bytes(view[at : at + 4], "big")
        kind = png[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(png):
            raise Undecodable(f"the PNG is cut short: {end + 12 - len(png):,} bytes or more are missing")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise Undecodable(f"the PNG is damaged: wrong checksum of the chunk at byte {at:,}")
        yield kind, view[at + 8 : end]
        at = end + 4


def _require_rows(image: PngImageFile, content: bytes) -> None:
    """Pillow leaves rows black that a PNG lacks; where the last ones are, the data is counted."""
    width, height = image.size
    last = (image.crop((0, y, width, y + 1)) for y in range(max(height - 2, 0), height))
    if all(row.getbbox(alpha_only=False) for row in last):
        return
    bits, colour, interlaced = 8, 2, 0
    inflate, count = zlib.decompressobj(), 0
    for kind, data in _chunks(content):
        if kind == b"IHDR":
            bits, colour, interlaced = data[8], data[9], data[12]
        elif kind == b"IDAT":
            rest: bytes | memoryview = data
            while rest and not inflate.eof:
                count += len(inflate.decompress(rest, 2**20))
                rest = inflate.unconsumed_tail
    bits *= {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    # the seven passes of Adam7: first column and row, and the steps
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    needed = 0
    for left, top, right, down in passes if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0:
            needed += rows * (1 + -(-columns * bits // 8))
    if count < needed:
        raise Undecodable(f"the PNG lacks rows: {count:,} of {needed:,} bytes of pixels")


def _require_tiles(image: TiffImageFile) -> None:
    """Every pixel has its strip or tile, and no tile is larger than a picture may be."""
    width, height = image.size
    area = 1
    for tag in (_TILE_WIDTH, _TILE_LENGTH):
        area *= max(int(image.tag_v2.get(tag) or 1), 1)
    if area > MAX_PIXELS:
        raise Undecodable(f"the TIFF has tiles of {area:,} pixels, at most {MAX_PIXELS:,} are taken: a trap")
    covered = sum((t[1][2] - t[1][0]) * (t[1][3] - t[1][1]) for t in image.tile if t[1] is not None)
    if covered < width * height:
        raise Undecodable("the TIFF is damaged: it lacks strips or tiles of the picture")


def _orientation(exif: bytes | None) -> int:
    """The one number of EXIF that matters here, 1 (upright) where it is missing or cannot be read.

    Read here, since Pillow would read, and complain of, all else in there, too.
    """
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    with contextlib.suppress(struct.error):  # it ends early
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if (tag, kind, count) == (_ORIENTATION, 3, 1):
                return int(value)
    return 1


def _in_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow in RGB: profile applied, transparency laid on white."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode.startswith("I;16"):
        image, alpha = _high_byte(image)
    elif image.mode == "F":
        image = _from_unit(image)
    elif image.mode == "I":
        raise Undecodable(
            "pixels of 32-bit or signed numbers have no agreed white; save 8 or 16 bits a channel"
        )
    elif image.mode == "LAB":
        return _to_srgb(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if image.has_transparency_data:
        _shorten_transparent_colour(image)
        image = image.convert("LA" if image.mode in ("1", "L", "La", "LA") else "RGBA")
        alpha = image.getchannel("A")
        image = image.getchannel("L") if image.mode == "LA" else image.convert("RGB")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if isinstance(profile, bytes):
        # one that is broken, or of another kind of colours than the picture, is ignored, as viewers do
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
            image = _to_srgb(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    if image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is None:
        return image
    page = Image.new("RGB", image.size, "white")
    page.paste(image, mask=alpha)
    return page


def _to_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    if ImageCms.getProfileDescription(profile).startswith("sRGB") and image.mode == "RGB":
        return image
    target = ImageCms.createProfile("sRGB")
    shown = ImageCms.applyTransform(image, ImageCms.buildTransform(profile, target, image.mode, "RGB"))
    assert shown is not None  # as always, unless the picture itself is to be changed
    return shown


def _shorten_transparent_colour(image: Image.Image) -> None:
    """The transparent colour of a 16-bit PNG in the 8 bits that Pillow keeps of each channel."""
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:
        image.info["transparency"] = tuple(c >> 8 for c in colour)


def _high_byte(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """16-bit grey as 8 bits, and what of it is opaque: the high byte, as Pillow takes it of 16-bit colour."""
    values = np.asarray(image)
    clear = image.info.pop("transparency", None)
    alpha = None if clear is None else Image.fromarray((values != clear) * np.uint8(255))
    shift = 8
    if isinstance(image, TiffImageFile):
        shift = max(int(np.max(image.tag_v2.get(_BITS, 16))) - 8, 0)  # 12 bits come as they are
    grey = np.minimum(values >> shift, 255).astype(np.uint8)
    return Image.fromarray(~grey if _white_is_zero(image) else grey), alpha


def _from_unit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if not ((values >= 0) & (values <= 1)).all():  # false for NaN, too
        raise Undecodable("float pixels outside 0 to 1 have no agreed white; save 8 or 16 bits a channel")
    grey = (values * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(~grey if _white_is_zero(image) else grey)


def _white_is_zero(image: Image.Image) -> bool:
    """Pillow inverts such TIFFs itself, but not with 16 bits or floats."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0

"""Files of pictures to what a viewer shows, or a reason why not."""

import random
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, ImageOps

from encoders.errors import Undecodable
from encoders.pictures import MAX_IMAGE_BYTES, MAX_PIXELS, decode_image
from encoders.spec import MediaFacts
from tests.encoders import hostile
from tests.encoders.hostile import chunk, grey_tiff, png, saved

# what Pillow says of broken metadata is ignored by the process, but pytest sets its own filters
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

GOOD = hostile.pictures()
LOSSLESS = ["rgb.png", "interlaced.png", "animated.png", "rgb.bmp", "raw.tiff", "lzw.tiff", "pages.tiff"]


def refused(content: bytes) -> str:
    with pytest.raises(Undecodable) as caught:
        decode_image(content)
    assert caught.value.stage == "decode"
    return str(caught.value)


def pixels(content: bytes, **options) -> np.ndarray:
    return np.asarray(decode_image(content, **options)[0]).astype(int)


def colour(content: bytes) -> tuple[int, ...]:
    """Of the pixel in the middle."""
    shown = pixels(content)
    return tuple(shown[shown.shape[0] // 2, shown.shape[1] // 2].tolist())


def near(one, other, by: int) -> bool:
    return bool((np.abs(np.asarray(one) - np.asarray(other)) <= by).all())


def flat(mode: str, value) -> Image.Image:
    return Image.new(mode, (32, 32), value)


@pytest.mark.parametrize("name", GOOD)
def test_every_format_is_decoded(name):
    """Each file gives an RGB picture without a tie to the file, and its facts."""
    image, facts = decode_image(GOOD[name])
    kind = {"jpg": "jpeg"}.get(name.split(".")[1], name.split(".")[1])
    assert facts == MediaFacts(format=kind, width=80, height=60)
    assert (image.mode, image.size, image.info) == ("RGB", (80, 60), {})
    assert not isinstance(image, ImageFile.ImageFile)


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_are_exact(name):
    """Not a pixel differs; of animations and of several pages it is the first."""
    assert (pixels(GOOD[name]) == np.asarray(hostile.picture())).all()


@pytest.mark.parametrize("name", ["baseline.jpg", "progressive.jpg", "cmyk.jpg", "lossy.webp", "rgb.avif"])
def test_lossy_formats_are_close(name):
    """The smooth part of the picture comes back nearly as it was."""
    assert np.abs(pixels(GOOD[name]) - np.asarray(hostile.picture()))[:15].mean() < 8


@pytest.mark.parametrize("name", ["rgba.png", "lossless.webp", "deflate.tiff"])
def test_transparency_is_laid_on_white(name):
    """Each pixel is mixed with white by its alpha."""
    alpha = np.asarray(Image.linear_gradient("L").resize((80, 60)))[..., None] / 255
    expected = np.asarray(hostile.picture()) * alpha + 255 * (1 - alpha)
    # fully transparent pixels may lose their colour, which nobody sees
    assert near(pixels(GOOD[name]), expected, 1)


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (flat("RGBA", (255, 0, 0, 128)), {}, (255, 127, 127)),
        (flat("LA", (0, 51)), {}, (204, 204, 204)),
        (flat("L", 7), {"transparency": 7}, (255, 255, 255)),
        (flat("L", 8), {"transparency": 7}, (8, 8, 8)),
        (flat("RGB", (1, 2, 3)), {"transparency": (1, 2, 3)}, (255, 255, 255)),
        (flat("I;16", 700), {"transparency": 700}, (255, 255, 255)),
        (flat("I;16", 700), {"transparency": 701}, (2, 2, 2)),
        (flat("1", 0), {"transparency": 0}, (255, 255, 255)),
        (flat("P", 0), {"transparency": 0}, (255, 255, 255)),
        (flat("P", 1), {"transparency": bytes([0, 128])}, (128, 128, 128)),
    ],
)
def test_transparent_colours_and_palettes(image, options, expected):
    """A colour that is declared transparent is white; half of black is grey."""
    if image.mode == "P":
        image.putpalette([0, 0, 0] * 2)
    assert near(colour(saved(image, "PNG", **options)), expected, 1)


def test_a_transparent_colour_of_16_bits():
    """It is compared with what is left of the pixels."""
    raw = (b"\0" + struct.pack(">3H", 0x0102, 0x7F00, 0xFFFF) * 4) * 4
    clear = chunk(b"tRNS", struct.pack(">3H", 0x0102, 0x7F00, 0xFFFF))
    assert colour(png(4, 4, raw, bits=16)) == (1, 127, 255)
    assert colour(png(4, 4, raw, bits=16, more=clear)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind):
    """The full range of 16 bits becomes the full range of 8."""
    values = np.array([[0, 255, 257, 32_767, 32_768, 65_279, 65_280, 65_535]], np.uint16)
    shown = pixels(saved(Image.fromarray(values), kind))
    assert shown[0, :, 0].tolist() == [0, 0, 1, 127, 128, 254, 255, 255]
    assert (shown == shown[..., :1]).all()


def test_16_bit_colour_and_grey_agree():
    """The same brightness in grey, in colour and with alpha is the same pixel."""
    levels = [0, 300, 32_767, 65_279, 65_535]
    grey = png(5, 1, b"\0" + struct.pack(">5H", *levels), bits=16, colour=0)
    rgb = png(5, 1, b"\0" + struct.pack(">15H", *(v for v in levels for _ in range(3))), bits=16)
    la = png(
        5,
        1,
        b"\0" + struct.pack(">10H", *(v for level in levels for v in (level, 65_535))),
        bits=16,
        colour=4,
    )
    assert (pixels(grey) == pixels(rgb)).all()
    assert (pixels(grey) == pixels(la)).all()


def test_unusual_tiffs():
    """12 bits, white as zero, and floats within 0 and 1 have their brightness; other numbers none."""
    shades = struct.pack("<4H", 0, 0x1000, 0x8000, 0xFFFF)
    assert pixels(grey_tiff(4, 1, 16, shades))[0, :, 0].tolist() == [0, 16, 128, 255]
    assert pixels(grey_tiff(4, 1, 16, shades, t262=(0,)))[0, :, 0].tolist() == [255, 239, 127, 0]
    assert pixels(grey_tiff(2, 1, 12, b"\x00\x0f\xff"))[0, :, 0].tolist() == [0, 255]
    assert pixels(grey_tiff(2, 1, 8, b"\x00\x10", t262=(0,)))[0, :, 0].tolist() == [255, 239]
    floats = {"t339": (3,), "t262": (1,)}
    assert pixels(grey_tiff(3, 1, 32, struct.pack("<3f", 0, 0.5, 1), **floats))[0, :, 0].tolist() == [
        0,
        128,
        255,
    ]
    for value in (1.5, -0.1, float("nan"), float("inf")):
        assert "0 to 1" in refused(grey_tiff(1, 1, 32, struct.pack("<f", value), **floats))
    assert "no agreed white" in refused(grey_tiff(1, 1, 32, bytes(4), t339=(2,)))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(
    ("ink", "expected"),
    [
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
    ],
    ids=["red", "cyan", "black", "paper"],
)
def test_cmyk_has_its_colours(kind, ink, expected):
    """Red ink is red, also in the inverted way of Adobe's JPEGs."""
    assert near(colour(saved(flat("CMYK", ink), kind)), expected, 3)


def test_lab_has_its_colours():
    """A TIFF in CIE L*a*b* is shown in sRGB."""
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(flat("RGB", (200, 40, 90)), srgb, lab, outputMode="LAB")
    assert near(colour(saved(image, "TIFF")), (200, 40, 90), 4)


def profile(**renamed: bytes) -> bytes:
    """sRGB under a name of its own, with its tags renamed."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = icc.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    head, tags = icc[:132], [icc[at : at + 12] for at in range(132, 132 + 12 * icc[131], 12)]
    table = b"".join(renamed.get(tag[:4].decode(), tag[:4]) + tag[4:] for tag in tags)
    return head + table + icc[len(head) + len(table) :]


SWAPPED = profile(rXYZ=b"bXYZ", bXYZ=b"rXYZ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_embedded_profiles_are_applied(kind):
    """With a profile whose red and blue are swapped, red is blue."""
    red = flat("RGB", (255, 0, 0))
    assert near(colour(saved(red, kind)), (255, 0, 0), 3)
    assert near(colour(saved(red, kind, icc_profile=profile())), (255, 0, 0), 3)
    assert near(colour(saved(red, kind, icc_profile=SWAPPED)), (0, 0, 255), 3)


def test_profiles_and_transparency():
    """Profiles convert palettes and what is half transparent, and white stays white."""
    half = flat("RGBA", (255, 0, 0, 128))
    assert near(colour(saved(half, "PNG", icc_profile=SWAPPED)), (127, 127, 255), 2)
    palette = flat("P", 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert near(colour(saved(palette, "PNG", icc_profile=SWAPPED)), (0, 0, 255), 2)


@pytest.mark.parametrize(
    "icc", [b"nonsense", SWAPPED[:200], SWAPPED[:128] + bytes(400), profile(rTRC=b"none")], ids=range(4)
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_broken_and_unfitting_profiles_are_ignored(mode, icc):
    """The picture is then shown as if it had none."""
    image = flat(mode, (10, 200, 30, 0)[: len(mode)] if mode != "L" else 77)
    assert colour(saved(image, "TIFF", icc_profile=icc)) == colour(saved(image, "TIFF"))
    assert colour(saved(flat("L", 77), "PNG", icc_profile=SWAPPED)) == (77, 77, 77)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "a camera"
    return tags


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(kind, orientation):
    """Four quarters of a picture, stored in any way, are shown in the same places."""
    quarters = Image.new("RGB", (64, 32))
    for at, shade in zip([(0, 0), (32, 0), (0, 16), (32, 16)], ["red", "lime", "blue", "white"], strict=True):
        quarters.paste(shade, (*at, at[0] + 32, at[1] + 16))
    # stored such that turning it brings it back; only the quarter turns are not their own inverse
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored = quarters.copy()
    stored.getexif()[0x0112] = inverse
    stored = ImageOps.exif_transpose(stored)
    content = saved(stored, kind, exif=exif(orientation), quality=95)
    image, facts = decode_image(content)
    assert (facts.width, facts.height) == image.size == (64, 32)
    shown = np.asarray(image).astype(int)
    corners = [shown[8, 16], shown[8, 48], shown[24, 16], shown[24, 48]]
    assert near(corners, [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)], 6)


def test_broken_exif_is_ignored():
    """Orientations that there are not, and EXIF that cannot be read, leave a picture as it is."""
    whole = exif(6).tobytes()
    image = hostile.picture()
    plain = pixels(saved(image, "JPEG"))
    for tags in (whole[:20], whole[:10], b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", exif(9).tobytes()):
        assert (pixels(saved(image, "JPEG", exif=tags)) == plain).all()
    rng = random.Random(5)
    for _ in range(50):
        damaged = saved(image, "JPEG", exif=whole[:6] + hostile.flipped(whole[6:], rng, 3))
        assert decode_image(damaged)[0].mode == "RGB"


@pytest.mark.parametrize("kind", ["baseline", "progressive", "grey", "cmyk", "turned"])
@pytest.mark.parametrize(("size", "least"), [((1_600, 1_200), 224), ((999, 2_001), 224), ((300, 230), 224)])
def test_a_reduced_jpeg_is_close_to_the_whole(kind, size, least):
    """Its shorter side is not below `least`, its facts are those of the whole, its pixels are close."""
    image = hostile.picture(*size).convert({"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB"))
    options = {"progressive": kind == "progressive"} | ({"exif": exif(6)} if kind == "turned" else {})
    content = saved(image, "JPEG", quality=92, **options)
    whole, facts = decode_image(content)
    small, small_facts = decode_image(content, least=least)
    assert small_facts == facts
    assert least <= min(small.size) <= max(min(whole.size) // 2, least * 2)
    assert near(whole.width / whole.height, small.width / small.height, 0.01)
    one, other = (np.asarray(i.resize((64, 64), Image.Resampling.BOX)).astype(int) for i in (whole, small))
    assert np.abs(one - other).mean() < 3


def test_only_jpeg_is_reduced():
    """Other formats come whole, and a JPEG that is smaller than `least`, too."""
    for name, content in GOOD.items():
        if not name.endswith(".jpg"):
            assert decode_image(content, least=8)[0].size == (80, 60)
        assert decode_image(content, least=100)[0].size == (80, 60)


def test_bombs_are_refused_before_they_go_off():
    """Small files that claim, or are, hundreds of millions of pixels are refused by their size."""
    for side in (6_400, 12_000, 30_000):
        content = hostile.bomb(side)
        assert len(content) < side * 5
        assert f"{MAX_PIXELS:,}" in refused(content)
    assert decode_image(hostile.bomb(6_000))[0].size == (6_000, 6_000)


@pytest.mark.parametrize("name", ["claims.gif", "claims.webp", "claims.bmp", "claims.tiff", "claims.jpg"])
@pytest.mark.parametrize("side", [6_500, 16_000])
def test_claims_are_refused(name, side):
    """In no format is anything allocated for what a header claims."""
    reason = refused(hostile.claims(side)[name])
    assert f"{MAX_PIXELS:,}" in reason or "damaged" in reason


def test_traps_of_tiff_and_jpeg():
    """Tiles larger than the picture, missing strips, and thousands of passes are refused."""
    huge = grey_tiff(8, 8, 8, bytes(64), t322=(60_000,), t323=(60_000,), t324=(8,), t325=(64,))
    assert "tiles" in refused(huge) or "damaged" in refused(huge)
    assert refused(grey_tiff(8, 8, 8, bytes(64), t278=(4,)))
    scans = GOOD["progressive.jpg"]
    at = scans.rindex(b"\xff\xda")
    assert "scans" in refused(scans[:at] + scans[at:-2] * 200 + b"\xff\xd9")


def test_what_is_behind_a_jpeg_does_not_matter():
    """Telephones append a short film, in which any bytes may occur."""
    content = GOOD["progressive.jpg"]
    thumbnail = b"\xff\xe1" + struct.pack(">H", 402) + b"\xff\xda" * 200
    behind = content[:2] + thumbnail + content[2:] + b"\xff\xda\0\x02" * 500
    assert (pixels(behind) == pixels(content)).all()


def test_heif_and_avif_may_name_the_same_brand_first():
    """The list of compatible brands tells which one it is."""
    content = GOOD["rgb.avif"]
    assert content[4:12] == b"ftypavif"
    general = content[:8] + b"mif1" + content[12:]
    assert (pixels(general) == pixels(content)).all()
    assert "a HEIF image" in refused(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(100))


def test_threads_do_not_disturb_each_other():
    """Many pictures at once come out as one by one."""
    names = [*GOOD] * 4
    with ThreadPoolExecutor(4) as pool:
        for name, shown in zip(names, pool.map(lambda name: pixels(GOOD[name]), names), strict=True):
            assert (shown == pixels(GOOD[name])).all()


def test_too_many_bytes_are_refused():
    """Content over the limit is refused unread."""
    assert f"{MAX_IMAGE_BYTES:,}" in refused(bytes(MAX_IMAGE_BYTES + 1))


@pytest.mark.parametrize("name", GOOD)
def test_truncated_files_are_refused(name):
    """Cut short anywhere, a file is refused, or has lost nothing of the first frame."""
    content = GOOD[name]
    whole = pixels(content)
    step = max(len(content) // 80, 1)
    for end in sorted({*range(0, len(content), step), *range(len(content) - 12, len(content))}):
        try:
            shown = pixels(content[:end])
        except Undecodable:
            continue
        assert (shown == whole).all(), end
        # they end in what the first frame does without
        assert name.endswith((".gif", ".tiff")) or name == "stereo.jpg", end


def test_a_png_without_its_last_rows_is_refused():
    """Its checksums are right, and Pillow would show black rows."""
    row = b"\0" + b"\x80" * 30
    assert colour(png(10, 11, row * 11)) == (128, 128, 128)
    for rows in (1, 5, 10):
        assert "lacks rows" in refused(png(10, 11, row * rows))
    assert colour(png(10, 11, (b"\0" + bytes(30)) * 11)) == (0, 0, 0)


@pytest.mark.parametrize("size", [(11, 13), (1, 1), (3, 9), (40, 2)])
def test_an_interlaced_png_without_its_last_rows_is_refused(size):
    """All black, it is whole or not by the count of its bytes alone."""
    raw = hostile.interlaced(Image.new("RGB", size))
    assert colour(png(*size, raw, interlaced=1)) == (0, 0, 0)
    for missing in (1, len(raw) // 2, len(raw) - 1):
        assert refused(png(*size, raw[:-missing], interlaced=1))


@pytest.mark.parametrize("name", GOOD)
def test_flipped_bits_are_refused_or_shown(name):
    """Whatever bits are flipped, the outcome is a picture or `Undecodable`; of a PNG never a picture."""
    rng = random.Random(name)
    for _ in range(200):
        damaged = hostile.flipped(GOOD[name], rng, rng.choice([1, 1, 4, 30]))
        try:
            image, facts = decode_image(damaged, least=rng.choice([0, 16]))
        except Undecodable:
            continue
        assert image.mode == "RGB"
        assert facts.width
        assert not name.endswith(".png")


HEADS = sorted({content[:n] for content in GOOD.values() for n in (0, 16, 40)})


@settings(deadline=None, derandomize=True, max_examples=300)
@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=200), least=st.sampled_from([0, 8]))
def test_any_bytes_are_a_picture_or_refused(head, tail, least):
    """Whatever the bytes, no other error escapes."""
    try:
        image, _ = decode_image(head + tail, least=least)
    except Undecodable:
        return
    assert image.mode == "RGB"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (bytes(100), "zero bytes"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b'\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'<?xml version="1.0"?>\n<svg/>', "an SVG drawing"),
        (b'{"error": "not found"}', "JSON"),
        ("Grüße, hier ist kein Bild\n".encode("ascii", "ignore"), "text"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "WAV audio"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x93NUMPY\x01\0", "of no kind known here"),
    ],
)
def test_other_kinds_are_named(content, reason):
    """A file of another kind is refused by what it is and what is taken."""
    told = refused(content)
    assert reason in told
    assert "JPEG, PNG" in told


@pytest.mark.parametrize("name", GOOD)
def test_a_picture_of_no_size_is_refused(name):
    """A header alone, without any pixel, is no picture."""
    assert refused(GOOD[name][:24])


def test_nothing_is_printed():
    """Over hundreds of damaged files nothing reaches the terminal of a process: not even from C."""
    program = """
import random
from encoders.errors import Undecodable
from encoders.pictures import decode_image
from tests.encoders import hostile
rng = random.Random(3)
for content in hostile.pictures().values():
    for attempt in range(40):
        cut = content[: rng.randrange(len(content))] if attempt % 4 == 0 else hostile.flipped(content, rng, 2)
        try:
            decode_image(cut)
        except Undecodable:
            pass
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")

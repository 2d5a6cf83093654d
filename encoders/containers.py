"""Whether a file of sound is all there: libsndfile decodes what is left of one without an error."""

import struct
import zlib
from collections.abc import Iterator

from encoders.errors import Undecodable

_UNKNOWN_SIZE = 0x7FFF0000
"""A WAV written to a pipe claims this, or more, since its size was not known yet."""

_SEARCH = 2**16
"""How far into an MP3 its first frame is looked for."""

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_KILOBITS = {
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def kind(content: bytes) -> str | None:
    """The container by its first bytes: WAV, FLAC, Ogg, MP3, AIFF or CAF; None for any other."""
    head = content[:12]
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE":
        return "WAV"
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return "AIFF"
    for mark, name in ((b"fLaC", "FLAC"), (b"OggS", "Ogg"), (b"caff", "CAF"), (b"ID3", "MP3")):
        if head.startswith(mark):
            return name
    return "MP3" if _frame_length(content, 0) else None


def sound(content: bytes, name: str) -> bytes:
    """`content`, checked as far as its container allows, in a form that libsndfile reads to its end.

    Raises `Undecodable` if it is damaged or cut short. FLAC is left to its decoder, which checks it.
    """
    match name:
        case "WAV":
            _require_wav(content)
        case "AIFF":
            _require_data(content, "AIFF", b"SSND", ">")
        case "CAF":
            _require_caf(content)
        case "Ogg":
            _require_ogg(content)
        case "MP3":
            return _counted_mp3(content)
    return content


def _cut(name: str, missing: int) -> Undecodable:
    return Undecodable(f"the {name} is cut short; bytes that are missing: {missing:,}")


def _require_wav(content: bytes) -> None:
    _require_data(content, "WAV", b"data", ">" if content.startswith(b"RIFX") else "<")


def _require_data(content: bytes, name: str, wanted: bytes, order: str) -> None:
    """Of RIFF and IFF: the chunk of samples is there in full; what follows it does not matter."""
    at, long = 12, None
    while at + 8 <= len(content):
        mark, size = content[at : at + 4], struct.unpack_from(order + "I", content, at + 4)[0]
        if mark == b"ds64" and at + 24 <= len(content):
            (long,) = struct.unpack_from("<Q", content, at + 16)
        if mark == wanted:
            if content.startswith(b"RF64") and size == 0xFFFFFFFF and long is not None:
                size = long
            elif size >= _UNKNOWN_SIZE:
                return
            if (missing := at + 8 + size - len(content)) > 0:
                raise _cut(name, missing)
            return
        at += 8 + size + size % 2
    raise Undecodable(f"the {name} is damaged or cut short: it has no samples (chunk {wanted.decode()})")


def _require_caf(content: bytes) -> None:
    """All chunks are there in full: a table of packets may stand behind the samples."""
    at, found = 8, False
    while at + 12 <= len(content):
        mark, size = struct.unpack_from(">4sq", content, at)
        found |= mark == b"data"
        if mark == b"data" and size == -1:
            return
        if size < 0:
            raise Undecodable(f"the CAF is damaged: a chunk of {size:,} bytes at byte {at:,}")
        at += 12 + size
    if at > len(content):
        raise _cut("CAF", at - len(content))
    if not found:
        raise Undecodable("the CAF is cut short: it has no samples (chunk data)")


def _require_ogg(content: bytes) -> None:
    """One stream, all its pages in order and undamaged, the last one marked as such."""
    at, flags, stream, number = 0, 0, None, 0
    while at < len(content):
        if at + 27 > len(content):
            raise _cut("Ogg", at + 27 - len(content))
        mark, _, flags, _, serial, page, check, segments = struct.unpack_from("<4sBBqIIIB", content, at)
        if mark != b"OggS":
            raise Undecodable(f"the Ogg is damaged at byte {at:,}: no page begins there")
        end = at + 27 + segments + sum(content[at + 27 : at + 27 + segments])
        if end > len(content) or at + 27 + segments > len(content):
            raise _cut("Ogg", max(end, at + 27 + segments) - len(content))
        if _ogg_checksum(content[at : at + 22] + bytes(4) + content[at + 26 : end]) != check:
            raise Undecodable(f"the Ogg is damaged: wrong checksum of the page at byte {at:,}")
        if stream is None:
            stream, number = serial, page
        if serial != stream:
            raise Undecodable("the Ogg has several streams, and only one of them would be heard; split it")
        if page != number:
            raise Undecodable(f"the Ogg is damaged: page {number:,} is missing")
        number += 1
        at = end
    if not flags & 4:
        raise Undecodable("the Ogg is cut short: its last page is missing")


def _ogg_checksum(page: bytes) -> int:
    """Ogg's CRC-32 is zlib's in the other order of bits, without its inversions."""
    mirrored = ~zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) & 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")


def _frame_length(content: bytes, at: int) -> int:
    """Bytes of the MP3 frame whose header stands at `at`; 0 if none does."""
    head = content[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # sync, layer III
        return 0
    version, bitrate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or not 0 < bitrate < 15 or rate == 3:
        return 0
    kilobits = _KILOBITS[3 if version == 3 else 2][bitrate - 1]
    return (144_000 if version == 3 else 72_000) * kilobits // _RATES[version][rate] + (head[2] >> 1 & 1)


def _frames(content: bytes) -> Iterator[int]:
    """Where each frame of an MP3 begins; raises `Undecodable` if one is damaged or cut short."""
    at = 0
    while content.startswith(b"ID3", at) and len(content) >= at + 10:  # tags before the sound
        size = 0
        for byte in content[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += 10 + size + (10 if content[at + 5] & 0x10 else 0)
    limit = at + _SEARCH
    while at < min(limit, len(content)):
        length = _frame_length(content, at)
        if length and (at + length >= len(content) or _frame_length(content, at + length)):
            break
        at += 1
    else:
        raise Undecodable("the MP3 has no frame of sound: damaged, cut short, or not MP3")
    first = content[at + 1] & 0xFE, content[at + 2] & 0x0C  # version and rate, the same in all frames
    while length := _frame_length(content, at):
        if (content[at + 1] & 0xFE, content[at + 2] & 0x0C) != first:
            break
        if at + length > len(content):
            raise _cut("MP3", at + length - len(content))
        yield at
        at += length
    rest = content[at:]
    if rest[:1] == b"\xff" and len(rest) < 4:
        raise _cut("MP3", 4 - len(rest))
    if rest.startswith((b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")) or not rest.strip(b"\0"):
        return
    raise Undecodable(f"the MP3 is damaged at byte {at:,}: no frame begins there")


def _counted_mp3(content: bytes) -> bytes:
    """`content` with a count of its frames: without one, libsndfile guesses the length and stops there."""
    starts = list(_frames(content))
    first = starts[0]
    frame = content[first : first + _frame_length(content, first)]
    claimed, understood = None, False
    for mark, offset in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        place = frame.find(mark, 4, 64)
        if place > 0 and place + offset + 4 <= len(frame):
            understood = mark != b"VBRI"  # by libsndfile
            if not understood or frame[place + 7] & 1:
                (claimed,) = struct.unpack_from(">I", frame, place + offset)
            starts = starts[1:]  # it holds the count, not sound
            break
    if claimed is not None and claimed > len(starts):
        raise Undecodable(f"the MP3 is cut short: {len(starts):,} of {claimed:,} frames are there")
    if not starts:
        raise Undecodable("the MP3 has no samples")
    if understood and claimed == len(starts):
        return content
    mono = frame[3] >> 6 == 3
    place = 4 + ((17 if mono else 32) if frame[1] & 8 else (9 if mono else 17))
    # the highest bit rate has room for it, and no checksum follows
    head = bytes([0xFF, frame[1] | 1, frame[2] & 0x0C | 0x90, frame[3]])
    info = head.ljust(place, b"\0") + b"Info" + struct.pack(">II", 1, len(starts))
    return info.ljust(_frame_length(head, 0), b"\0") + content[starts[0] :]

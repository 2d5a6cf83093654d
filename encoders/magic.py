"""What bytes seem to be, so that a file of the wrong kind is refused by its name."""

_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\0\0\1\0", "a Windows icon"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (0, b"fLaC", "FLAC audio"),
    (0, b"OggS", "an Ogg file"),
    (0, b"ID3", "MP3 audio"),
    (0, b"caff", "CAF audio"),
    (0, b"#!AMR", "AMR audio"),
    (0, b".snd", "AU audio"),
    (0, b"MThd", "MIDI notes"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "WMA or WMV (ASF)"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
    (0, b"FLV", "Flash video"),
    (8, b"WEBP", "a WebP image"),
    (8, b"WAVE", "WAV audio"),
    (8, b"AVI ", "AVI video"),
    (8, b"AIFF", "AIFF audio"),
    (8, b"AIFC", "AIFF audio"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypavis", "an AVIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftyphev", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypmsf1", "a HEIF image"),
    (4, b"ftypM4A", "M4A (AAC) audio"),
    (4, b"ftyp", "an MP4 or QuickTime file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "PostScript"),
    (0, b"PK\3\4", "a ZIP archive or an Office document"),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"SQLite format 3", "an SQLite database"),
    (0, b"version https://git-lfs", "a Git LFS pointer: the file itself was never fetched"),
    (0, b"BM", "a BMP image"),
)
"""Offset, bytes found there, what it is; the more telling first."""

_RIFF = (b"RIFF", b"RIFX", b"RF64", b"FORM")
_SAMPLE = 512


def seems(content: bytes) -> str:
    """What `content` is by its first bytes, as words that fit after "this is"; never raises."""
    if not content:
        return "an empty file"
    for at, mark, what in _KINDS:
        if content.startswith(mark, at) and (at != 8 or content.startswith(_RIFF)):
            return what
    head = content[:_SAMPLE]
    if not any(head):
        return "a file that begins with nothing but zero bytes"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        return "an SVG drawing"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if text.startswith(b"<?xml"):
        return "XML"
    if text.startswith((b"{", b"[")):
        return "JSON or other text"
    if all(byte >= 0x20 or byte in b"\t\r\n\f" for byte in head) and 0x7F not in head:
        return "text"
    return "a file of no kind known here"

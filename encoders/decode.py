"""Raw bytes to text."""

import codecs

from encoders.errors import Undecodable

MAX_TEXT_BYTES = 16 * 2**20
"""Largest content of one text item: about 20,000 chunks; a larger one is a log or a dump to be split."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is a prefix of it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 64 * 2**10
_CONTROL_SHARE = 0.02


def decode_text(content: bytes | None, *, declared: str | None) -> str:
    """The text in `content`, lines ended by line feeds; raises `Undecodable` if there is none.

    `declared` is the encoding where the source knows it (columns of tables are UTF-8); else it is
    found out: a byte order mark, UTF-8, then charset-normalizer. NUL bytes mean binary data: no
    text has them, and binary files posing as text nearly always do.
    """
    if content is None:
        raise Undecodable("there is no text: the value is null")
    if len(content) > MAX_TEXT_BYTES:
        raise Undecodable(
            f"{len(content):,} bytes of text, at most {MAX_TEXT_BYTES:,} are taken per item; split it"
        )
    text = _strict(content, declared) if declared else _detected(content)
    if "\0" in text:
        raise Undecodable(f"NUL byte at character {text.index(chr(0))}: binary data, not text")
    if declared is None:
        _require_no_binary(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text or text.isspace():
        raise Undecodable("the text is empty" if not text else "the text is only white space")
    return text


def _strict(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise Undecodable(
            f"not valid {encoding} at byte {error.start} ({error.reason}); a lone surrogate or binary data"
        ) from None


def _detected(content: bytes) -> str:
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return _strict(content, encoding)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        _require_no_damaged_utf8(content, error)
    return _strict(content, _guessed(content[:_SAMPLE]))


def _require_no_damaged_utf8(content: bytes, error: UnicodeDecodeError) -> None:
    """UTF-8 with a few broken bytes must not become another encoding's mojibake."""
    told = content.decode("utf-8", "replace")
    broken = told.count("\ufffd")
    whole = sum(c > "\x7f" for c in told) - broken
    surrogate = _is_utf8_but_for_surrogates(content)
    if surrogate or whole > broken:
        what = "a lone surrogate" if surrogate else "damaged UTF-8"
        raise Undecodable(f"not valid UTF-8 at byte {error.start} ({error.reason}): {what}")


def _is_utf8_but_for_surrogates(content: bytes) -> bool:
    try:
        content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _guessed(sample: bytes) -> str:
    """The encoding that fits best; Windows-1252, the usual one by far, where it fits as well."""
    from charset_normalizer import from_bytes  # its tables are needed for few files, if any

    fitting = from_bytes(sample[: sample.rfind(b"\n") + 1] or sample)
    best = fitting.best()
    if best is None:
        raise Undecodable("the bytes fit no known text encoding")
    usual = next((m for m in fitting if m.encoding == "cp1252"), None)
    if usual is not None and usual.chaos <= best.chaos + 0.1 and usual.coherence >= best.coherence:
        return usual.encoding
    return best.encoding


def _require_no_binary(text: str) -> None:
    sample = text[:_SAMPLE]
    controls = sum(c < " " and c not in "\t\n\r\f\v\x1b" for c in sample)
    if controls > _CONTROL_SHARE * len(sample):
        raise Undecodable(f"{controls} control characters: binary data posing as text")

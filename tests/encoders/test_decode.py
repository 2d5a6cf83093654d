"""Raw bytes to text, or a reason why not."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.decode import MAX_TEXT_BYTES, decode_text
from encoders.errors import Undecodable

GERMAN = "Grüße aus Zürich: die schöne Müllerin hört große Flüsse rauschen, Vögel ziehen über Österreich. "
FRENCH = "Ça fait déjà trois ans que nous étions à la plage; le garçon a mangé des crêpes près de l'hôtel. "
ENGLISH = "He said “hello” — it’s a naïve café in the old town, the price is 5 €, and the weather was fine. "
JAPANESE = (
    "これは日本語の文章です。文字コードを判定できるように、すこし長めに書いておきます。東京は日本の首都です。"
)
POLISH = "Zażółć gęślą jaźń, żółw szedł wzdłuż ścieżki, a potem wrócił do domu późno w nocy. "
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. "


def refused(content: bytes | None, declared: str | None = None) -> str:
    with pytest.raises(Undecodable) as raised:
        decode_text(content, declared=declared)
    assert raised.value.stage == "decode"
    return str(raised.value)


@settings(deadline=None, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"])).filter(str.strip))
def test_utf8_comes_back(text):
    """Any text in UTF-8 is read as it is where the encoding is declared."""
    assert decode_text(text.encode(), declared="utf-8") == text


@pytest.mark.parametrize(
    "text",
    [GERMAN, FRENCH, ENGLISH, POLISH, RUSSIAN, JAPANESE, "🙂 x", "plain"],
    ids=["German", "French", "English", "Polish", "Russian", "Japanese", "emoji", "ASCII"],
)
def test_utf8_is_found_out(text):
    """UTF-8 is recognised without being told."""
    assert decode_text(text.encode(), declared=None) == text


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
@pytest.mark.parametrize("text", [GERMAN, JAPANESE, "x"], ids=["German", "Japanese", "one letter"])
def test_byte_order_marks_decide(text, mark, encoding):
    """A byte order mark names the encoding and is no part of the text."""
    assert decode_text(mark + text.encode(encoding), declared=None) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        pytest.param(GERMAN, "latin-1", id="German latin-1"),
        pytest.param(GERMAN, "cp1252", id="German cp1252"),
        pytest.param(FRENCH, "latin-1", id="French latin-1"),
        pytest.param(FRENCH, "cp1252", id="French cp1252"),
        pytest.param(ENGLISH, "cp1252", id="English cp1252"),
        pytest.param(POLISH, "cp1250", id="Polish cp1250"),
        pytest.param(RUSSIAN, "cp1251", id="Russian cp1251"),
        pytest.param(RUSSIAN, "koi8-r", id="Russian koi8-r"),
        pytest.param(JAPANESE, "shift-jis", id="Japanese shift-jis"),
        pytest.param(JAPANESE, "euc-jp", id="Japanese euc-jp"),
        pytest.param(JAPANESE, "utf-16-le", id="Japanese utf-16 without a mark"),
    ],
)
@pytest.mark.parametrize("times", [4, 2_000], ids=["short", "long"])
def test_older_encodings_are_found_out(text, encoding, times):
    """A paragraph, or a long file, in a common older encoding gives the very text that was written."""
    assert decode_text((text * times).encode(encoding), declared=None) == text * times


def test_declared_is_strict():
    """Where the encoding is declared nothing is guessed: other bytes are refused, saying where."""
    assert "not valid utf-8 at byte 2" in refused("Grüße".encode("latin-1"), "utf-8")


@pytest.mark.parametrize("declared", ["utf-8", None])
@pytest.mark.parametrize(
    "text",
    ["a\ud800b", JAPANESE + "\ud83d", GERMAN * 5 + "\udfff" + GERMAN, "plain text " * 40 + "\ud800"],
    ids=["short", "Japanese", "German", "ASCII"],
)
def test_lone_surrogates_are_refused(text, declared):
    """Half of a surrogate pair is no text, and not taken for some other encoding either."""
    assert refused(text.encode("utf-8", "surrogatepass"), declared)


@pytest.mark.parametrize("text", [GERMAN, RUSSIAN, JAPANESE], ids=["German", "Russian", "Japanese"])
def test_damaged_utf8_is_refused(text):
    """A file that is UTF-8 but for one byte is refused; read as an older encoding all of it were wrong."""
    whole = (text * 20).encode()
    assert refused(whole + b"\xff" + whole)


def test_lone_surrogates_in_utf16_are_refused():
    """Half of a surrogate pair is refused in UTF-16, too."""
    assert "utf-16" in refused(codecs.BOM_UTF16_LE + "a\ud800b".encode("utf-16-le", "surrogatepass"))


@pytest.mark.parametrize("declared", ["utf-8", None])
def test_nul_means_binary(declared):
    """A NUL byte is refused, saying at which character."""
    assert refused(b"abc\0def", declared).startswith("NUL byte at character 3")


@pytest.mark.parametrize(
    "content",
    [
        b"abc\x01\x02\x03" * 100,
        b"\x7fELF\x02\x01\x01" * 20,
        bytes(range(1, 256)) * 16,
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    ],
    ids=["control bytes", "executable", "all bytes", "image"],
)
def test_binary_posing_as_text_is_refused(content):
    """Binary content in a file named like a text is refused."""
    assert refused(content)


def test_terminal_colours_are_text():
    """Tabs, form feeds and escape sequences of terminals do not make a text binary."""
    text = "\x1b[31mred\x1b[0m\tplain\f" * 20
    assert decode_text(text.encode(), declared=None) == text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no text: the value is null"),
        (b"", "the text is empty"),
        (codecs.BOM_UTF8, "the text is empty"),
        (b" \n\t\r\n ", "the text is only white space"),
        ("\u3000\u00a0".encode(), "the text is only white space"),
    ],
)
@pytest.mark.parametrize("declared", [None, "utf-8-sig"])
def test_nothing_to_encode_is_refused(content, reason, declared):
    """Null, empty and blank content each have a reason of their own."""
    assert refused(content, declared) == reason


@pytest.mark.parametrize("declared", ["utf-8", None])
def test_line_ends_become_line_feeds(declared):
    """Windows, old Mac and mixed line ends are read alike; no other character moves."""
    assert decode_text(b"a\r\nb\rc\nd\r\n\r\n e", declared=declared) == "a\nb\nc\nd\n\n e"


def test_too_large_is_refused():
    """Content over the limit is refused, naming both sizes; content at the limit is read."""
    assert decode_text(b"a" * MAX_TEXT_BYTES, declared="utf-8") == "a" * MAX_TEXT_BYTES
    reason = refused(b"a" * (MAX_TEXT_BYTES + 1), "utf-8")
    assert f"{MAX_TEXT_BYTES + 1:,} bytes" in reason
    assert f"{MAX_TEXT_BYTES:,}" in reason


@settings(deadline=None, derandomize=True)
@given(content=st.binary(max_size=200), declared=st.sampled_from([None, "utf-8"]))
def test_any_bytes_are_text_or_refused(content, declared):
    """Whatever the bytes, the outcome is clean text or `Undecodable`, never another error."""
    try:
        text = decode_text(content, declared=declared)
    except Undecodable:
        return
    assert text.strip()
    assert not set("\0\r") & set(text)
    assert text.encode()


@pytest.mark.parametrize("encoding", ["shift-jis", "euc-jp"])
@pytest.mark.parametrize("shift", [0, 1])
def test_the_cut_of_the_sample_splits_no_character(encoding, shift):
    """A long text is recognised wherever the sample of it ends."""
    text = "x" * shift + (JAPANESE + "\n") * 6_000
    assert decode_text(text.encode(encoding), declared=None) == text

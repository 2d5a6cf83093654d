"""Spans by the fake tokenizer's words, MiniLM's word pieces, bytes, and SentencePiece-like pieces."""

import hashlib
import random
from itertools import pairwise

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from encoders.chunking import Chunker, chunk_hash
from encoders.errors import EncoderUnusable, Unchunkable
from encoders.fake import FakeTokenizer
from encoders.spec import ChunkSpec, EncoderFacts, TokenChunking, chunking_of
from encoders.tokens import SEGMENT, ModelTokenizer

FAMILY = "👩\u200d👩\u200d👧\u200d👦"
RAINBOW = "🏳\ufe0f\u200d🌈"

PIECES = st.one_of(
    st.sampled_from(
        ["the", "embedding", "Tokenization", "naïve", "3.14159", "x=[i**2]", "foo_bar", "...", "—", "don't"]
    ),
    st.sampled_from(["東京は日本の首都です", "한국어", "ภาษาไทย", "नमस्ते", "العربية", "Ελλάδα"]),
    st.sampled_from([FAMILY, RAINBOW, "👍🏽", "🇩🇪", "🇩🇪🇫🇷🇮🇹", "🙂"]),
    st.sampled_from(["e\u0301", "a\u0300\u0316\u0489", "Z\u0337\u0322\u031b", "n\u0303o", "가"]),
    st.sampled_from(["antidisestablishmentarianism", "qwxzjkv", "0123456789"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=8),
)
RUNS = st.builds(lambda piece, times: piece * times, PIECES, st.sampled_from([1, 1, 1, 2, 5, 40]))
TEXTS = st.lists(st.tuples(RUNS, st.sampled_from([" ", " ", "", "\n", "  ", "\n\n"])), max_size=40).map(
    lambda parts: "".join(run + space for run, space in parts)
)
SIZES = st.integers(8, 40).flatmap(lambda most: st.tuples(st.just(most), st.integers(0, most // 2)))

examples = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module", params=["fake", "minilm", "bytes", "pieces"])
def tokenizer(request: pytest.FixtureRequest):
    match request.param:
        case "fake":
            return FakeTokenizer()
        case "minilm":
            return ModelTokenizer(request.getfixturevalue("minilm_folder"))
        case "bytes":
            return request.getfixturevalue("byte_tokenizer")
        case _:
            return request.getfixturevalue("piece_tokenizer")


@pytest.fixture(scope="module")
def word_pieces(minilm_folder):
    return ModelTokenizer(minilm_folder)


def chunker(tokenizer, max_tokens: int = 16, overlap: int = 4, prompt: str = "") -> Chunker:
    return Chunker(TokenChunking(max_tokens, overlap, "hash"), tokenizer, prompt)


def has_token(tokenizer, text: str) -> bool:
    return len(tokenizer.tokens(text).start) > 0


def spans_of(tokenizer, size: tuple[int, int], text: str) -> list[tuple[int, int]]:
    return chunker(tokenizer, *size).spans(text) if has_token(tokenizer, text) else []


@examples
@example(text="the the the the the the x=[i**2]x=[i**2]\nembedding ", size=(10, 3))
@given(text=TEXTS, size=SIZES)
def test_spans_ascend(tokenizer, text, size):
    """Spans are not empty, lie in the text, and each begins and ends after the one before."""
    spans = spans_of(tokenizer, size, text)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(spans))


@examples
@example(text="one" + "\n" * 60 + "two" + " " * 60, size=(8, 2))
@given(text=TEXTS, size=SIZES)
def test_no_chunk_is_blank(tokenizer, text, size):
    """No chunk of a text that has more than white space is white space alone."""
    blank = [text[a:b] for a, b in spans_of(tokenizer, size, text) if not text[a:b].strip()]
    assert blank == [] or not text.strip()


@examples
@given(text=TEXTS, size=SIZES)
def test_nothing_seen_is_lost(tokenizer, text, size):
    """Every character that is not white space and that a token covers lies in a span."""
    spans = spans_of(tokenizer, size, text)
    inside = {at for start, end in spans for at in range(start, end)}
    tokens = tokenizer.tokens(text)
    seen = {at for a, b in zip(tokens.start, tokens.end, strict=True) for at in range(a, b)}
    assert [text[at] for at in sorted(seen - inside) if not text[at].isspace()] == []


@examples
@given(text=TEXTS, size=SIZES)
def test_chunks_fit(tokenizer, text, size):
    """No span has more tokens than the budget when it is tokenized alone, but for a single character."""
    budget = chunker(tokenizer, *size).budget
    pieces = [text[start:end] for start, end in spans_of(tokenizer, size, text)]
    counts = tokenizer.count(pieces)
    assert [(p, n) for p, n in zip(pieces, counts, strict=True) if n > budget and len(p) > 1] == []


@examples
@given(text=TEXTS, size=SIZES)
def test_characters_stay_whole(tokenizer, text, size):
    """No cut falls inside a grapheme cluster, unless that cluster alone exceeds the budget."""
    budget = chunker(tokenizer, *size).budget
    cuts = {at for span in spans_of(tokenizer, size, text) for at in span}
    clusters = [m.span() for m in regex.finditer(r"\X", text)]
    cut = [text[a:b] for a, b in clusters if any(at in cuts for at in range(a + 1, b))]
    assert [c for c in cut if tokenizer.count([c])[0] <= budget] == []


@examples
@given(text=TEXTS, size=SIZES)
def test_overlap_is_bounded(tokenizer, text, size):
    """Two consecutive spans share at most `overlap` tokens."""
    spans = spans_of(tokenizer, size, text)
    tokens = tokenizer.tokens(text)
    for (_, end), (start, _) in pairwise(spans):
        assert int(((tokens.start >= start) & (tokens.end <= end)).sum()) <= size[1]


@examples
@given(text=TEXTS, size=SIZES)
def test_same_text_same_spans(tokenizer, text, size):
    """The same text is cut alike by another chunker of the same chunking."""
    assert spans_of(tokenizer, size, text) == spans_of(tokenizer, size, text)


@examples
@given(text=TEXTS)
def test_short_text_is_one_span(tokenizer, text):
    """A text within the budget is one chunk, from its first to its last character."""
    most = tokenizer.count([text])[0] + tokenizer.special_tokens
    if has_token(tokenizer, text):
        assert chunker(tokenizer, max(8, most)).spans(text) == [(0, len(text))]


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_text_without_tokens_is_refused(text, word_pieces):
    """Nothing to encode is an error of stage chunk and never an empty chunk."""
    for tokenizer in (FakeTokenizer(), word_pieces):
        with pytest.raises(Unchunkable, match="no token") as raised:
            chunker(tokenizer).spans(text)
        assert raised.value.stage == "chunk"


def test_characters_outside_the_vocabulary_are_refused(word_pieces):
    """Control characters alone, which MiniLM drops, are refused."""
    with pytest.raises(Unchunkable):
        chunker(word_pieces).spans("\u200b\u200e\ufeff")


def test_words_stay_whole_where_avoidable(word_pieces):
    """Plain prose is cut between words only, and consecutive chunks share some."""
    words = ["antidisestablishmentarianism", "tokenization", "of", "embeddings", "unbelievable"] * 40
    text = " ".join(words)
    spans = chunker(word_pieces, 32, 8).spans(text)
    assert len(spans) > 10
    assert all(word in words for start, end in spans for word in text[start:end].split())
    assert all(b[0] < a[1] for a, b in pairwise(spans))


def test_without_overlap_chunks_do_not_touch(word_pieces):
    """With overlap 0 every word of plain prose is in exactly one chunk."""
    text = " ".join(f"word{n}" for n in range(500))
    spans = chunker(word_pieces, 32, 0).spans(text)
    assert " ".join(text[a:b] for a, b in spans) == text


def test_chunks_are_filled(word_pieces):
    """Chunks of plain prose use most of the budget: no text becomes confetti."""
    text = "The quick brown fox jumps over the lazy dog. " * 400
    cut = chunker(word_pieces, 64, 8)
    counts = word_pieces.count([text[a:b] for a, b in cut.spans(text)])
    assert min(counts[:-1]) > 0.8 * cut.budget


def test_word_longer_than_a_chunk(tokenizer):
    """One word that exceeds the budget after short ones is cut up, and repeats none of what came before."""
    text = "a b c d e " + "0123456789abcdef" * 20 + " end"
    spans = chunker(tokenizer, 16, 6).spans(text)
    assert all(a[1] < b[1] for a, b in pairwise(spans))
    assert {at for a, b in spans for at in range(a, b)} >= {i for i, c in enumerate(text) if not c.isspace()}
    assert max(tokenizer.count([text[a:b] for a, b in spans])) <= chunker(tokenizer, 16, 6).budget


@pytest.mark.parametrize(
    "cluster",
    ["🇩🇪", FAMILY, RAINBOW, "👍🏽", "e\u0301\u0316", "क्षि"],
    ids=["flag", "family", "rainbow", "skin tone", "two accents", "conjunct"],
)
@pytest.mark.parametrize("space", ["", " "], ids=["joined", "spaced"])
@pytest.mark.parametrize("size", [(40, 6), (41, 7)], ids=["even", "odd"])
def test_long_runs_of_composed_characters(cluster, space, size, tokenizer):
    """Two hundred equal composed characters in a row are cut only between them, however far in."""
    cut = chunker(tokenizer, *size)
    text = (cluster + space) * 200
    whole = {at for m in regex.finditer(r"\X", text) for at in m.span()}
    assert tokenizer.count([cluster])[0] <= cut.budget
    assert {at for span in cut.spans(text) for at in span} <= whole


def test_cluster_longer_than_a_chunk_is_cut():
    """A letter with more marks than fit is cut inside, and its neighbours are kept whole."""
    text = "start " + "e" + "\u0301" * 100 + " end"
    cut = chunker(FakeTokenizer(), 16, 4)
    spans = cut.spans(text)
    assert max(FakeTokenizer().count([text[a:b] for a, b in spans])) <= 16
    assert text[slice(*spans[0])].startswith("start")
    assert text[slice(*spans[-1])].endswith(" end")


def long_prose() -> str:
    chosen = random.Random(7)
    words = [
        "embedding",
        "of",
        "naïve",
        "東京",
        "value",
        "e\u0301tude",
        FAMILY,
        "x=1;",
        "unbelievable",
        "the",
    ]
    return " ".join(chosen.choices(words, k=60_000))


@pytest.mark.parametrize(
    "text",
    [long_prose(), "東京は日本の首都です。" * 28_000, "a" * 300_000, FAMILY * 43_000, "abc-123_" * 38_000],
    ids=["prose", "without spaces", "one word", "one run of emoji", "punctuated"],
)
def test_text_longer_than_a_segment(text, word_pieces):
    """A text that the tokenizer sees in several pieces keeps every property at the seams."""
    assert len(text) > SEGMENT
    cut = chunker(word_pieces, 256, 32)
    spans = cut.spans(text)
    assert all(a[0] < b[0] <= a[1] + 1 and a[1] < b[1] for a, b in pairwise(spans))
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    assert max(word_pieces.count([text[a:b] for a, b in spans])) <= cut.budget
    whole = {at for m in regex.finditer(r"\X", text) for at in m.span()}
    assert {at for span in spans for at in span} <= whole


def test_segments_do_not_change_tokens(word_pieces):
    """A long text has the same tokens as its words one by one: no seam falls into a word."""
    words = ["tokenization"] * 20_000
    text = " ".join(words)
    assert " " not in text[SEGMENT - 2 : SEGMENT + 2]
    tokens = word_pieces.tokens(text)
    assert len(tokens.start) == sum(word_pieces.count(words))
    assert (tokens.start[1:] >= tokens.end[:-1]).all()
    assert int(tokens.word_start.sum()) == len(words)


def test_prompt_takes_its_tokens_from_the_budget(word_pieces):
    """Chunk, prompt and special tokens together stay within max_tokens."""
    prompt = "passage: "
    cut = chunker(word_pieces, 32, 4, prompt)
    text = "The quick brown fox jumps over the lazy dog. " * 20
    counts = word_pieces.count([prompt + text[a:b] for a, b in cut.spans(text)])
    assert max(counts) + word_pieces.special_tokens <= 32
    assert cut.budget == 32 - 2 - word_pieces.count([prompt])[0]


def test_prompt_that_leaves_no_room_is_refused(word_pieces):
    """A prompt as long as the chunk is a configuration error that names the setting to raise."""
    with pytest.raises(EncoderUnusable, match=r"max_tokens 8 leaves no room .* raise it"):
        chunker(word_pieces, 8, 0, "one two three four five six seven ")


def test_defaults_follow_the_encoder(minilm_facts: EncoderFacts):
    """Left out, a chunk is as long as the encoder reads, at most 256; longer than it reads is refused."""
    assert chunking_of(ChunkSpec(), minilm_facts).max_tokens == 256
    assert chunking_of(ChunkSpec(max_tokens=64), minilm_facts) == TokenChunking(
        64, 32, minilm_facts.tokenizer_hash
    )
    with pytest.raises(EncoderUnusable, match=r"set chunk\.max_tokens to 256 or less"):
        chunking_of(ChunkSpec(max_tokens=257), minilm_facts)


def test_overlap_beyond_half_a_chunk_is_refused():
    """An overlap of more than half of a chunk is refused, saying what the most is."""
    with pytest.raises(ValueError, match="give at most 32"):
        ChunkSpec(max_tokens=64, overlap=33)


def test_chunking_id_names_everything_that_moves_spans():
    """Length, overlap and tokenizer each change the id; equal settings share it."""
    ids = {TokenChunking(*c).id for c in [(64, 8, "a"), (65, 8, "a"), (64, 9, "a"), (64, 8, "b")]}
    assert len(ids) == 4
    assert TokenChunking(64, 8, "a").id == TokenChunking(64, 8, "a").id


def test_chunk_hash_is_of_the_text():
    """The key of a chunk is the first half of the SHA-256 of its UTF-8."""
    assert chunk_hash("Grüße") == hashlib.sha256("Grüße".encode()).digest()[:16]
    assert chunk_hash("a") != chunk_hash("a ")

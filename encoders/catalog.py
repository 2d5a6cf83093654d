"""From a spec to facts, and to a loaded encoder. The one place that knows which kinds there are."""

from typing import Literal

from encoders import fake, files
from encoders.protocol import Encoder, Tokenizer
from encoders.spec import EncoderFacts, EncoderSpec

Device = Literal["cpu", "cuda"]


def describe(spec: EncoderSpec, hashes: files.HashCache) -> EncoderFacts:
    """Fingerprint, space, dims and limits of an encoder, without loading it. Raises `EncoderError`."""
    if spec.model.startswith("fake:"):
        return fake.describe(spec)
    return files.describe(spec, hashes)


def open_tokenizer(facts: EncoderFacts) -> Tokenizer:
    """The encoder's tokenizer, without the encoder."""
    if facts.tokenizer_folder is None:
        return fake.FakeTokenizer()
    from encoders.tokens import ModelTokenizer

    return ModelTokenizer(facts.tokenizer_folder)


def open_encoder(
    spec: EncoderSpec,
    facts: EncoderFacts,
    *,
    device: Device | None = None,
    threads: int | None = None,
) -> Encoder:
    """Load the encoder: on the GPU if there is one and `device` does not say otherwise.

    `threads` bounds the CPU threads of this process. Raises `EncoderUnusable`.
    """
    if facts.folder is None:
        return fake.FakeEncoder(facts)
    from encoders.text import TextEncoder  # imports torch: seconds

    return TextEncoder(spec, facts, device=device, threads=threads)

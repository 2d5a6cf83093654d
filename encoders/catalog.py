"""From a spec to facts, and to what is loaded. The one place that knows which kinds there are."""

from typing import Literal

from encoders import fake, files
from encoders.protocol import Encoder, MediaEncoder, Preparer, Tokenizer
from encoders.spec import BUILTIN, PYTHON, EncoderFacts, EncoderSpec

Device = Literal["cpu", "cuda"]


def describe(spec: EncoderSpec, hashes: files.HashCache) -> EncoderFacts:
    """Fingerprint, space, dims and limits of an encoder, without loading it. Raises `EncoderError`."""
    if spec.model.startswith("fake:"):
        return fake.describe(spec)
    if spec.model.startswith(PYTHON):
        from encoders import custom  # and below: what a run over texts need not import

        return custom.describe(spec)
    if spec.model in BUILTIN:
        from encoders import logmel, scatter

        return scatter.describe(spec) if spec.modality == "image" else logmel.describe(spec)
    if spec.modality == "text":
        return files.describe(spec, hashes)
    from encoders import media_files

    return media_files.describe(spec, hashes)


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
    """Load an encoder of texts: on the GPU if there is one and `device` does not say otherwise.

    `threads` bounds the CPU threads of this process. Raises `EncoderUnusable`.
    """
    if spec.model.startswith(PYTHON):
        from encoders import custom

        return custom.CustomEncoder(spec, facts)
    if facts.folder is None:
        return fake.FakeEncoder(facts)
    from encoders.text import TextEncoder  # imports torch: seconds

    return TextEncoder(spec, facts, device=device, threads=threads)


def open_preparer(spec: EncoderSpec, facts: EncoderFacts) -> Preparer:
    """What turns decoded media into the encoder's inputs, without the encoder. Raises `EncoderUnusable`."""
    if spec.model.startswith(PYTHON):
        from encoders import custom

        return custom.CustomPreparer(spec)
    if spec.model in BUILTIN:
        from encoders import logmel, scatter

        return scatter.ScatterPreparer() if spec.modality == "image" else logmel.LogMelPreparer()
    if facts.folder is None:
        return fake.FakePreparer(facts.modality)
    from encoders.processors import MediaPreparer  # imports transformers: seconds

    return MediaPreparer(spec, facts)


def open_media_encoder(
    spec: EncoderSpec,
    facts: EncoderFacts,
    *,
    device: Device | None = None,
    threads: int | None = None,
) -> MediaEncoder:
    """Load an encoder of images or audio; where and with how many threads is as for `open_encoder`."""
    if spec.model.startswith(PYTHON):
        from encoders import custom

        return custom.CustomEncoder(spec, facts)
    if spec.model in BUILTIN:
        from encoders import logmel, scatter

        builtin = scatter.ScatterEncoder if spec.modality == "image" else logmel.LogMelEncoder
        return builtin(facts, device=device, threads=threads)
    if facts.folder is None:
        return fake.FakeMediaEncoder(facts)
    from encoders.loaded import LoadedMediaEncoder  # imports torch: seconds

    return LoadedMediaEncoder(spec, facts, device=device, threads=threads)

"""Questions to a collection, in any modality that its encoder puts into the space of the items."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from encoders.catalog import open_media_encoder, open_preparer
from encoders.errors import RowError
from encoders.protocol import Encoder, MediaEncoder, Preparer
from encoders.spec import DEFAULT_CHUNK_SECONDS, EncoderFacts, EncoderSpec, Modality, NoChunking
from storage.commits import Release
from storage.errors import QueryRefused
from tasks.calls import Calls, opened
from tasks.encoded import EncodeJob


@dataclass(frozen=True)
class MediaQuery:
    """An image or a sound to search with."""

    path: Path
    modality: Modality


Query = str | MediaQuery

_HOW: dict[Modality, str] = {"text": "a text", "image": "--image FILE", "audio": "--audio FILE"}


class Asker:
    """The encoder of a release, loaded at the first question that needs it."""

    def __init__(self, spec: EncoderSpec, facts: EncoderFacts, release: Release) -> None:
        self._spec, self._facts = spec, facts
        self._seconds = float(release.chunking.get("seconds", DEFAULT_CHUNK_SECONDS))

    @property
    def encoder(self) -> tuple[EncoderSpec, EncoderFacts]:
        """Which encoder it is."""
        return self._spec, self._facts

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Texts as documents of an encoder of texts, float32 (n, dim); NaN where one cannot be encoded."""
        spec, facts = self._spec, self._facts
        calls = Calls(EncodeJob(spec, facts, NoChunking()), np.empty(0, "S16"), None, None)
        made = calls.vectors({str(at).encode(): text for at, text in enumerate(texts)})
        nothing = np.full(facts.dim, np.nan, np.float32)
        return np.stack([nothing if isinstance(v, RowError) else v for v in made.values()])

    def vector(self, query: Query) -> np.ndarray:
        """The query's vector, float32 (dim,); of a long sound the mean of its windows, of unit norm.

        Raises `QueryRefused` if the encoder knows no such queries, or the file cannot be read or decoded.
        """
        modality: Modality = "text" if isinstance(query, str) else query.modality
        if modality not in self._facts.queries:
            ways = " or ".join(_HOW[m] for m in self._facts.queries)
            raise QueryRefused(
                f"{self._spec.model} knows no {modality} queries: only {' and '.join(self._facts.queries)} "
                f"can be compared with the vectors of {self._facts.space_id}. Ask with {ways}"
            )
        if isinstance(query, str):
            return self._encoder.encode_query(query)
        try:
            return self._of_media(query)
        except OSError as error:
            raise QueryRefused(f"{query.path} cannot be read ({error.strerror or error})") from None
        except RowError as error:
            raise QueryRefused(f"{query.path} cannot be searched with: {error}") from None

    def _of_media(self, query: MediaQuery) -> np.ndarray:
        content = query.path.read_bytes()
        if query.modality == "image":
            from encoders.pictures import decode_image

            image, _ = decode_image(content, least=self._preparer.least)
            first: np.ndarray = self._media_encoder.encode([self._preparer.prepare(image)])[0]
            return first
        from encoders.sounds import decode_audio
        from encoders.windows import cut

        samples, _ = decode_audio(content, self._preparer.rate)
        pieces = cut(samples, self._preparer.rate, self._seconds, 0.0)
        mean = self._media_encoder.encode([self._preparer.prepare(piece) for _, piece in pieces]).mean(axis=0)
        unit: np.ndarray = (mean / max(float(np.linalg.norm(mean)), np.finfo(np.float32).tiny)).astype(
            np.float32
        )
        return unit

    @cached_property
    def _preparer(self) -> Preparer:
        return open_preparer(self._spec, self._facts)

    @cached_property
    def _encoder(self) -> Encoder | MediaEncoder:
        if self._facts.modality == "text":
            return opened(self._spec, self._facts)
        return self._media_encoder

    @cached_property
    def _media_encoder(self) -> MediaEncoder:
        return open_media_encoder(self._spec, self._facts)

"""Side features: what costs next to nothing beside an encoder pass, and joins the old vector in a map.

Of texts the mean of the new encoder's own token embeddings; of images and audio the built-in encoder's
vector.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.basis.side import StaticTokens, open_side
from encoders.catalog import describe
from encoders.spec import BUILTIN, EncoderFacts, EncoderSpec
from storage.commits import Release
from storage.snapshot import Snapshot
from tasks.encoded import EncodeJob
from tasks.native import natively
from tasks.originals import job_of
from tasks.progress import quietly
from tasks.project import Project


class SideFeatures:
    """The side features of stored chunks for one new encoder."""

    def __init__(
        self, project: Project, release: Release, spec: EncoderSpec, facts: EncoderFacts, folder: Path
    ) -> None:
        self._project, self._release, self._folder = project, release, folder
        self._tokens: StaticTokens | None = None
        self._built_in: tuple[EncoderSpec, EncoderFacts] | None = None
        if facts.modality == "text":
            self._tokens = open_side(spec, facts)
        elif spec.model not in BUILTIN:
            model = next(name for name, modality in BUILTIN.items() if modality == facts.modality)
            own = EncoderSpec(model=model, modality=facts.modality)
            self._built_in = own, describe(own, project.hashes())

    @property
    def fingerprint(self) -> str:
        """What the features are of; "" if this encoder has none."""
        if self._tokens is not None:
            return self._tokens.fingerprint
        return self._built_in[1].fingerprint if self._built_in else ""

    def of(self, snapshot: Snapshot, rows: pa.Table) -> np.ndarray:
        """Features of chunks (`item_id`, `chunk_no`, `chunk_start`, `chunk_end`), float32 (n, dim).

        A chunk whose original is not there has NaN.
        """
        if self._tokens is not None:
            return self._of_texts(self._tokens, snapshot, rows)
        if self._built_in is not None:
            return self._of_media(snapshot, rows, *self._built_in)
        raise ValueError("this encoder has no side features")

    def _of_texts(self, tokens: StaticTokens, snapshot: Snapshot, rows: pa.Table) -> np.ndarray:
        ids = pc.unique(rows["item_id"])
        items = snapshot.rows_of("items", ids, ["text"])
        texts = {} if items is None else dict(zip(*(c.to_pylist() for c in items.columns), strict=True))
        spans = zip(*(rows[n].to_pylist() for n in ("item_id", "chunk_start", "chunk_end")), strict=True)
        chunks = [None if texts.get(i) is None else texts[i][a:b] for i, a, b in spans]
        out = np.full((len(chunks), tokens.dim), np.nan, np.float32)
        there = np.array([chunk is not None for chunk in chunks], bool)
        if there.any():
            out[there] = tokens.encode([chunk for chunk in chunks if chunk is not None])
        return out

    def _of_media(
        self, snapshot: Snapshot, rows: pa.Table, spec: EncoderSpec, facts: EncoderFacts
    ) -> np.ndarray:
        own = job_of(self._project, snapshot, self._release, spec, facts)
        job = EncodeJob(spec, facts, own.chunking, own.encoding, own.column)
        ids = pc.unique(rows["item_id"]).to_pylist()
        found = natively(
            self._project, snapshot, job, self._release.chunking_id, ids, self._folder, quietly, keep=False
        )
        out = np.full((rows.num_rows, facts.dim), np.nan, np.float32)
        for at, (item_id, number) in enumerate(
            zip(*(rows[n].to_pylist() for n in ("item_id", "chunk_no")), strict=True)
        ):
            chunks = found.items.get(item_id)
            if chunks is not None and number < len(chunks.vectors):
                out[at] = chunks.vectors[number]
        return out

"""Canaries: fixed inputs, and the vectors that an encoder once gave for them.

Encoded again they show whether the encoder of a release still writes into its space: a fingerprint
covers the files, but not the libraries, the machine, or a file that changed under its remembered hash.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.catalog import Device, describe, open_preparer
from encoders.errors import EncoderError, EncoderUnusable
from encoders.files import HashCache
from encoders.spec import EncoderFacts, EncoderSpec
from storage import arrays, parquet
from storage.commits import Release
from storage.errors import Damaged
from storage.findings import Finding
from storage.parquet import DataFile
from storage.places import Place
from storage.snapshot import Snapshot
from tasks.calls import opened, opened_media
from tasks.project import Project

if TYPE_CHECKING:
    from PIL import Image

SAME = 0.999
"""Cosine of a canary to its stored vector below which the space is another one.

Other precision, device and libraries stay above 0.9999; other weights, pooling or prompts do not.
"""

FOLDER = "data/canaries"

_SAMPLE = 8
_TEXTS = (
    "The harbour was quiet; only a dog barked.",
    "Der Zug nach Köln hat heute zwölf Minuten Verspätung.",
    "¿Dónde está la biblioteca más cercana?",
    "Сегодня утром пошёл первый снег.",
    "كم سعر هذا الكتاب؟",
    "今日はとても良い天気ですね。",
    "मुझे चाय पसंद है।",
    "def add(a, b): return a + b  # 3.14",
)


_MEDIA = tuple(f"canary {number}" for number in range(8))


def names(facts: EncoderFacts) -> tuple[str, ...]:
    """The fixed inputs: texts in several languages and scripts; names of images or sounds made from them.

    What is stored names its own: these may change.
    """
    return _TEXTS if facts.modality == "text" else _MEDIA


def make(
    spec: EncoderSpec, facts: EncoderFacts, inputs: Sequence[str], device: Device | None = None
) -> np.ndarray:
    """The vectors of some inputs as documents of an encoder, float32 (n, dim), in their order.

    Raises `EncoderUnusable` if it fails on them: it would on anything.
    """
    try:
        return _made(spec, facts, inputs, device)
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderUnusable(
            f"{spec.model} fails on plain inputs that every encoder can take: {error}"
        ) from error


def _made(spec: EncoderSpec, facts: EncoderFacts, inputs: Sequence[str], device: Device | None) -> np.ndarray:
    if facts.modality == "text":
        return opened(spec, facts, device=device).encode(inputs)
    preparer = open_preparer(spec, facts)
    decoded = [_image(n) if facts.modality == "image" else _sound(n, preparer.rate) for n in inputs]
    return opened_media(spec, facts, device=device).encode([preparer.prepare(one) for one in decoded])


def _image(name: str) -> "Image.Image":
    """A picture of soft colours with some grain, always the same for a name."""
    from PIL import Image

    random = _random(name)
    soft = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (160, 160), Image.Resampling.BICUBIC
    )
    grain = random.integers(-12, 13, (160, 160, 3))
    return Image.fromarray(np.clip(np.asarray(soft).astype(int) + grain, 0, 255).astype(np.uint8))


def _sound(name: str, rate: int) -> np.ndarray:
    """Two seconds of a few tones with some noise, always the same for a name and a rate."""
    random = _random(name)
    time = np.arange(2 * rate) / rate
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in random.uniform(80, 0.4 * rate, 4))
    noisy: np.ndarray = (0.2 * tones + 0.02 * random.standard_normal(len(time))).astype(np.float32)
    return noisy


def _random(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def store(root: Place, inputs: Sequence[str], matrix: np.ndarray) -> DataFile:
    """Write what `make` gave for some inputs below the collection in `root`; durable on return."""
    dim = matrix.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), pa.float32()), dim)
    table = pa.table({"text": pa.array(inputs, pa.string()), "vector": vectors})
    return parquet.write(root, FOLDER, table)


def noted(
    root: Place, release: Release, spec: EncoderSpec, facts: EncoderFacts, device: Device | None = None
) -> Release:
    """The release with canaries made now; to be called once, before its first window is committed.

    A run that dies before leaves a file that no version names, and that `evervec maintain` removes.
    """
    inputs = names(facts)
    return release.model_copy(update={"canaries": store(root, inputs, make(spec, facts, inputs, device))})


def stored(snapshot: Snapshot, release: Release) -> tuple[list[str], np.ndarray]:
    """Inputs and the vectors that the release's encoder once gave for them, float32 (n, dim).

    A release without canaries of its own (of an older lake, or whose file was lost) has up to eight
    chunks that it encoded. Raises `Damaged`.
    """
    if release.canaries is not None:
        table = parquet.read(snapshot.root, release.canaries, ["text", "vector"])
        return table["text"].to_pylist(), _matrix(table["vector"], release.dim)
    for chunks in _encoded(snapshot, release):
        sample = chunks.take(pa.array(_spread(chunks.num_rows), pa.int64()))
        items = snapshot.rows_of("items", sample["item_id"].combine_chunks(), ["text"])
        held = {} if items is None else dict(zip(*(c.to_pylist() for c in items.columns), strict=True))
        spans = zip(*(sample[c].to_pylist() for c in ("item_id", "chunk_start", "chunk_end")), strict=True)
        found = [held[i][a:b] if held.get(i) is not None else None for i, a, b in spans]
        kept = pa.array([text is not None for text in found])
        if any(text is not None for text in found):
            return [t for t in found if t is not None], _matrix(sample["vector"].filter(kept), release.dim)
    return [], np.empty((0, release.dim), np.float32)


def check(project: Project, collection: str) -> list[Finding]:
    """A finding for each space whose encoder does not give the vectors any more that it once gave.

    The weights are read and hashed anew. An encoder that cannot be had here is a notice.
    """
    try:
        snapshot = Snapshot.open(project.lake / collection)
    except Damaged:
        return []  # the log has findings of its own
    releases = snapshot.head.releases if snapshot.head else ()
    spaces = {r.space_id: r for r in releases if r.encoder and not r.retired}
    found = [_checked(project, snapshot, release) for release in spaces.values()]
    return [finding for finding in found if finding is not None]


def _checked(project: Project, snapshot: Snapshot, release: Release) -> Finding | None:
    recorded = EncoderSpec.model_validate(release.encoder)
    told = f"made {release.space_id} (release {release.release} of {snapshot.root.name!r})"
    back = f"put the earlier files of {_name(project, recorded)} back, or ingest into a new collection"
    hashes = HashCache(None)  # remembered ones go by size and time, and may be of other bytes
    now: EncoderFacts | None = None
    for spec in dict.fromkeys([recorded, *project.encoders.values()]):
        try:
            facts = describe(spec, hashes)
            if facts.fingerprint == release.fingerprint:
                return _compared(snapshot, release, spec, facts, told, back)
        except EncoderError as error:
            if spec == recorded:
                told += f" and cannot be used here ({error})"
            continue
        now = facts if spec == recorded else now
    if now is None:
        return Finding(recorded.model, told, back, "notice")
    what = f"{told}, but its files now make {now.space_id}: same name, other weights"
    return Finding(recorded.model, what, back)


def _compared(
    snapshot: Snapshot, release: Release, spec: EncoderSpec, facts: EncoderFacts, told: str, back: str
) -> Finding | None:
    try:
        inputs, before = stored(snapshot, release)
    except Damaged:
        return None  # the files have findings of their own
    if not inputs:
        return None
    again = make(spec, facts, inputs, "cpu")
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(again, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.nan_to_num((before * again).sum(axis=1) / norms, nan=-1.0)
    worst = int(cosines.argmin())
    if cosines[worst] >= SAME:
        return None
    measured = f"cosine {cosines[worst]:.4f} for {inputs[worst][:40]!r}, expected at least {SAME}"
    return Finding(spec.model, f"{told}, but now gives other vectors: {measured}", back)


def _name(project: Project, recorded: EncoderSpec) -> str:
    """What the configuration calls an encoder, else its model."""
    return next(
        (f"encoder {n!r}" for n, spec in project.encoders.items() if spec == recorded), recorded.model
    )


def _encoded(snapshot: Snapshot, release: Release) -> Iterator[pa.Table]:
    """Live chunks that the release's encoder made, batch by batch."""
    columns = ["item_id", "chunk_start", "chunk_end", "origin", "vector"]
    for file in snapshot.files("vectors", release.space_id):
        masked = snapshot.masked.get(file.path, np.empty(0, np.int64))
        at = 0
        for batch in parquet.batches(snapshot.root, file, columns):
            alive = np.isin(np.arange(at, at + batch.num_rows), masked, invert=True)
            at += batch.num_rows
            native = pc.and_(pc.equal(batch["origin"], "encoded"), arrays.from_numpy(alive, pa.bool_()))
            found = batch.filter(native)
            if found.num_rows:
                yield found


def _spread(count: int) -> list[int]:
    """Up to eight rows of `count`, evenly."""
    return sorted({at * count // _SAMPLE for at in range(min(_SAMPLE, count))} | {0})[:_SAMPLE]


def _matrix(vectors: pa.ChunkedArray, dim: int) -> np.ndarray:
    flat: np.ndarray = arrays.to_numpy(vectors.combine_chunks().flatten()).reshape(-1, dim)
    return flat

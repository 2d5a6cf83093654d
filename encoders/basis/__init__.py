"""Bases: fitted transformations that carry vectors of one space into another.

Pure functions over numpy arrays; may import torch (lazily, to fit networks), and nothing that encoders may
not. Start with `spec.py` (what a basis is and how it is applied), then `fit.py` (how one is fitted);
`files.py` turns it into bytes, `side.py` gives the cheap features that may join the vectors.
"""

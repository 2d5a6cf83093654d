"""The steps of the flows: pull, diff, encode, commit, read.

The only place that starts Ray, and where resource numbers live; joins encoders and storage.
Start with `steps.py` (an ingest in four calls) for writing, with `reader.py` for the public Python API.
"""

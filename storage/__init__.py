"""Arrow in, versions out: Parquet files, the commit log, the LanceDB index, DuckDB views.

May import pyarrow, lancedb, duckdb; never encoders, torch, ray or prefect.
Start with `commits.py` (the log, the single source of truth), then `transaction.py` (the protocol).
"""

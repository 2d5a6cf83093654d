"""Where items come from: one file a kind, one protocol for all (`protocol.py`)."""

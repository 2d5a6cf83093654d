"""The verbs of the command line: what each prints. They import what they need when they run.

`reading.py` has those that leave the lake as it is, `changing.py` those that do not, `starting.py` the
rest; `invocation.py` is for all of them.
"""

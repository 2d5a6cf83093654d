"""What a person runs or schedules: one file, one verb. Reads like a table of contents.

`cli.py` is the command line, which takes `arguments.py` and prints what `verbs/` say; `settings.py` is the
configuration; `deployed.py` alone imports Prefect.
"""

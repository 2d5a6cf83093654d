"""What a person runs or schedules: one file, one verb. Reads like a table of contents.

`cli.py` is the command line, `settings.py` the configuration, `deployed.py` alone imports Prefect.
"""

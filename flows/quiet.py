"""Libraries that chatter, phone home or dawdle unless the environment tells them not to."""

import os


def quiet_libraries() -> None:
    """Defaults for libraries that take them from the environment alone; what the user set stays."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",  # forks with threads warn otherwise
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",  # it warns of how Ray Data itself starts its actors
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "LANCE_LOG": "error",
        "PYDANTIC_DISABLE_PLUGINS": "__all__",  # finding none takes 30 ms of every command
    }.items():
        os.environ.setdefault(name, value)

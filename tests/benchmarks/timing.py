"""Commands, timed to their end as a user would wait for them, and the memory of all their processes."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

EVERVEC = str(Path(sys.executable).with_name("evervec"))


def timed(command: list[str], *, watch: bool = True) -> dict[str, Any]:
    """Run a command to its end: seconds, peak memory of its process tree (PSS, MB), its JSON output.

    Watching the memory slows short commands down; these are timed without.
    """
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "RAY_ADDRESS", "EVERVEC_LAKE")
    }
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    peak = _Peak(process.pid) if watch else None
    out, errors = process.communicate()
    took = time.perf_counter() - began
    if peak:
        peak.stop()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{errors.decode()}")
    last = out.decode().strip().splitlines()[-1:] or [""]
    parsed = json.loads(last[0]) if last[0].startswith("{") else {}
    return {"seconds": took, "peak_mb": peak.mb if peak else None, "out": parsed}


class _Peak(threading.Thread):
    """Samples the proportional memory of a process tree until stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._stopped, self.mb = pid, threading.Event(), 0.0
        self.start()

    def run(self) -> None:
        while not self._stopped.wait(0.02 if self.mb < 300 else 0.2):
            try:
                root = psutil.Process(self._pid)
                tree = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.mb = max(self.mb, sum(map(_pss, tree)))

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def _pss(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 1e6
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


def interpreter_mb() -> float:
    """Peak memory of a Python that has only imported what reading a table needs nothing of."""
    return float(timed([sys.executable, "-c", "import time; time.sleep(0.3)"])["peak_mb"])

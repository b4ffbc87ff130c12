"""Benchmarks: a job in a process of its own, so that its peak memory is its own and no type checks slow it down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

END = """
print(json.dumps({"weights_per_second": blocks * 4096 / seconds, "peak_mib": %s}))
"""
RESIDENT = "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024"


def measured(job: str, folder: Path, blocks: int, peak: str = RESIDENT) -> dict[str, float]:
    """Run a script that sets ``blocks`` and ``seconds``; it is given the tests' folder, ``folder`` and ``blocks``.

    ``peak`` is an expression in the script's terms, mebibytes.
    """
    arguments = [sys.executable, "-c", job + END % peak, Path(__file__).parent, folder, str(blocks)]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(printed)
    return result


def shown(name: str, result: dict[str, float]) -> None:
    """Print a line of the table."""
    print(f"{name:58} {result['weights_per_second'] / 1e6:6.2f} M weights/s, peak {result['peak_mib']:6.0f} MiB")

"""Runs all of the onnx package's backend tests through pfmc and writes docs/backend_tests.md.

    python tests/backend_table.py [PATTERN]

With a pattern (shell-style, of names) it prints what becomes of those cases instead.
"""

from __future__ import annotations

import multiprocessing as mp
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final
from unittest import mock

import onnx
import onnxruntime
from backend_cases import IDEAL_TOLERANCE, TOLERANCE, Case, Outcome, constant_cases, node_cases, outcome, stored_cases

from pfmc import registry
from pfmc.errors import ImportModelError
from pfmc.frontend import folding
from pfmc.frontend.runtime import first_line

PAGE: Final = Path(__file__).parents[1] / "docs" / "backend_tests.md"
PROCESSES: Final = 2
SECONDS: Final = 300  # that a case may take
BYTES: Final = 12 * 2**30  # of address space


def all_cases() -> list[Case]:
    """Of single operators, those with constant weights, and those in files."""
    nodes = node_cases()
    return [*nodes, *constant_cases(nodes), *stored_cases()]


def outcomes(cases: Sequence[Case]) -> Iterator[tuple[Case, Outcome]]:
    """What becomes of each, in the order in which they end: two processes at a time, each with limits."""
    for name in registry.backend_for("crossbar").pipeline:  # what every process would load again
        registry.load_pass(name)
    context = mp.get_context("fork")
    waiting = list(cases)[::-1]
    running: dict[Connection, tuple[Case, mp.process.BaseProcess, float]] = {}
    while waiting or running:
        while waiting and len(running) < PROCESSES:
            case = waiting.pop()
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(case, theirs))
            process.start()
            theirs.close()
            running[mine] = case, process, time.monotonic() + SECONDS
        ready = wait(list(running), max(0.0, min(end for *_, end in running.values()) - time.monotonic()))
        for connection, (case, process, end) in list(running.items()):
            if connection in ready or time.monotonic() > end:
                yield case, _ended(connection, process, finished=connection in ready)
                del running[connection]


def _ended(connection: Connection, process: mp.process.BaseProcess, *, finished: bool) -> Outcome:
    if not finished:
        process.kill()
        process.join()
        return Outcome("failed", f"not done in {SECONDS} s")
    try:
        found: Outcome = connection.recv()
    except EOFError:
        process.join()
        return Outcome("failed", f"its process ended with {process.exitcode}")
    process.join()
    return found


def _work(case: Case, connection: Connection) -> None:
    """In a process of its own already: constants are folded in this one, which saves a start of Python per case."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with tempfile.TemporaryDirectory() as folder, mock.patch("pfmc.frontend.importer._fold", _folded_here):
        connection.send(outcome(case, Path(folder)))


def _folded_here(model: Path, folded: Path, _memory: int, where: str) -> None:
    try:
        folding.fold(str(model), str(folded))
    except Exception as e:  # as the importer's own process does
        raise ImportModelError(f"ONNX Runtime cannot load it: {first_line(str(e))}", where) from None


def page(found: dict[str, tuple[Case, Outcome]]) -> str:
    """The page: counts by kind and reason, then the names of what compiles with the errors."""
    kinds = list(dict.fromkeys(case.kind for case, _ in found.values()))
    counts = Counter((case.kind, _label(each)) for case, each in found.values())
    totals = Counter(_label(each) for _, each in found.values())
    order = sorted(totals, key=lambda label: (not label.startswith("**"), -totals[label], label))
    rows = [[label, *(str(counts[kind, label] or "") for kind in kinds), str(totals[label])] for label in order]
    sums = ["all", *(str(sum(case.kind == kind for case, _ in found.values())) for kind in kinds), str(len(found))]
    lines = [
        "# The onnx package's own backend tests",
        "",
        f"Written by `python tests/backend_table.py` with onnx {onnx.__version__} and ONNX Runtime "
        f"{onnxruntime.__version__}: every case of",
        "`onnx.backend.test`, compiled for the technology `generic` with the case's own inputs as calibration data,",
        f"in a process of its own with {SECONDS} s and {BYTES // 2**30} GiB. Cases of single operators whose weights",
        "are inputs are there once more with those as constants. Of the light models, large networks whose weights are",
        "all the same number, the first convolution is built (`--only`).",
        "",
        "*Compiles* means that the as-fabricated model, read back from the masks, agrees with ONNX Runtime: relative",
        f"error at most {IDEAL_TOLERANCE:.0%} with ideal converters and {TOLERANCE:.0%} with the technology's.",
        "All others are refused in one line that says why.",
        "",
        *_table(["", *kinds, "all"], [*rows, sums]),
        "",
        "## What compiles",
        "",
        *_table(
            ["case", "error, ideal converters", "error"],
            [
                [f"`{name}`", f"{each.ideal_error:.2%}", f"{each.error:.2%}"]
                for name, (_, each) in sorted(found.items())
                if each.kind == "compiles"
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def _label(each: Outcome) -> str:
    """What the table calls an outcome."""
    if each.kind == "compiles":
        return "**compiles and agrees**"
    return f"refused: {each.reason}" if each.kind == "refused" else f"**fails**: {each.reason}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    body = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *body]


def main(pattern: str | None) -> None:
    """Run all cases and write the page, or print what becomes of some."""
    cases = [case for case in all_cases() if pattern is None or fnmatchcase(case.name, pattern)]
    found: dict[str, tuple[Case, Outcome]] = {}
    for case, each in outcomes(cases):
        found[case.name] = case, each
        if pattern is not None or each.kind == "failed":
            print(f"{case.name}: {each.kind} {each.reason} {each.ideal_error:.2%} {each.error:.2%}", flush=True)
    if pattern is None:
        PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)

"""A third party's package: a pass of its own, found through entry points, in a real installed distribution."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parent.parent / "samples"

MODULE = '''
from dataclasses import dataclass, replace
from typing import ClassVar

from pfmc.netlist.netlist import Netlist
from pfmc.passmanager import Context, Pass


@dataclass(frozen=True)
class Widen(Pass[Netlist, Netlist]):
    """Widen every output range."""

    factor: float = 2.0
    name: ClassVar[str] = "widen"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[Netlist]] = Netlist
    after: ClassVar[str] = "calibrate"

    def run(self, source: Netlist, context: Context) -> Netlist:
        def wide(r):
            return replace(r, low=r.low * self.factor, high=r.high * self.factor)

        return replace(source, tiles=tuple(replace(t, output_range=wide(t.output_range)) for t in source.tiles))
'''

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "pfmc-widen"
version = "1.0"
[project.entry-points."pfmc.passes"]
widen = "pfmc_widen:Widen"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built and unpacked as an installer would."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "pfmc_widen").mkdir()
    (source / "pfmc_widen" / "__init__.py").write_text(MODULE)
    (source / "pyproject.toml").write_text(PYPROJECT)
    build = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--target", site, source], check=True, capture_output=True)
    return site


def pfmc(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    script = "import site, sys; site.addsitedir(sys.argv.pop(1)); from pfmc.cli import main; main()"
    command = [sys.executable, "-c", script, str(site), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_pass_of_a_third_party_is_listed_run_and_recorded(site: Path, tmp_path: Path) -> None:
    assert "widen" in pfmc(site, "passes").stdout
    model = SAMPLES / "digits_mlp" / "model.onnx"
    made = pfmc(
        site, "compile", model, "-o", tmp_path / "chip", "--add-pass", "widen", "--set", "widen.factor=3", "--json",
        "--print-after", "calibrate", "--print-after", "widen",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert '{"name": "widen", "options": {"factor": 3.0}}' in made.stdout
    assert made.stderr.index("; after calibrate") < made.stderr.index("; after widen")
    before, after = made.stderr.split("; after widen")
    assert before.split("output ")[1].split()[0] != after.split("output ")[1].split()[0]

"""What an installer gets."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_all_that_runs_outside_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("pfmc-*.whl"))).namelist())
    package_data = [
        *ROOT.glob("pfmc/**/*.toml"),
        *ROOT.glob("pfmc/**/*.j2"),
        *ROOT.glob("pfmc/**/*.py"),
        *ROOT.glob("*/pfmc_*/**/*.py"),
    ]
    assert len(package_data) > 30
    for path in package_data:
        relative = path.relative_to(ROOT).as_posix()
        assert relative.removeprefix("passes/").removeprefix("backends/") in names
    for package in ("pfmc", "pfmc_passes", "pfmc_backends"):
        assert f"{package}/py.typed" in names
    assert {name for name in names if name.startswith("pfmc_samples/")} == {
        f"pfmc_samples/digits_mlp/{name}" for name in ("model.onnx", "test.npz", "calibration.npz")
    }
    assert not any(name.startswith(("passes/", "backends/", "tests/", "samples/")) for name in names)

"""The command line as a user meets it: what it prints, and how it ends when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

SAMPLES = Path(__file__).parent.parent / "samples"
MODEL = SAMPLES / "digits_mlp" / "model.onnx"
CALIBRATION = SAMPLES / "digits_mlp" / "calibration.npz"
TEST = SAMPLES / "digits_mlp" / "test.npz"
PFMC = [sys.executable, "-c", "from pfmc.cli import main; main()"]


def pfmc(*arguments: object, limit: str = "") -> subprocess.CompletedProcess[str]:
    command = [*PFMC, *map(str, arguments)]
    if limit:
        command = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "-", *command]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "chip"
    made = pfmc("compile", MODEL, "-o", folder, "--calibration", CALIBRATION, "--json")
    assert made.returncode == 0, made.stderr
    manifest = json.loads((folder / "manifest.json").read_text())
    assert json.loads(made.stdout) == manifest
    return folder


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("pfmc: error: ")
    for word in words:
        assert word in lines[0]


def test_the_manifest_has_what_outside_tools_count_on(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for key in ("format_version", "target", "tiles", "devices", "personalisation_layers", "files"):
        assert manifest[key], key
    assert manifest["technology"]["name"] == "sg13g2"
    assert manifest["parameters"]["mapped"] == 64 * 64 + 64 * 10
    assert manifest["macs"]["mapped"] == 64 * 64 + 64 * 10
    assert manifest["devices"] == 2 * manifest["parameters"]["mapped"]
    assert manifest["personalisation_layers"] == ["28/0", "128/0"]
    assert {"masks/chip.gds", "host.onnx", "tiles.parquet"} <= {entry["path"] for entry in manifest["files"]}


def test_verify_prints_one_json_object(bundle: Path) -> None:
    result = pfmc("verify", bundle, "--data", TEST, "--json")
    verdict = json.loads(result.stdout)
    assert result.returncode == 0
    assert result.stderr == ""
    assert verdict["samples"] == len(np.load(TEST)["labels"])
    assert verdict["data"] == "file"
    assert set(verdict["outputs"]["logits"]) >= {"relative_error", "cosine", "agreement"}
    assert set(verdict["accuracy"]) == {"reference", "fabricated"}
    assert verdict["devices"] == verdict["devices_read_back"]
    assert verdict["modified_files"] == []
    assert verdict["passed"] is True


def test_verify_out_of_tolerance_ends_with_1(bundle: Path) -> None:
    result = pfmc("verify", bundle, "--tolerance", "1e-9", "--samples", "8", "--json")
    verdict = json.loads(result.stdout)
    assert (result.returncode, verdict["passed"], verdict["data"], verdict["samples"]) == (1, False, "random", 8)


@pytest.mark.parametrize("command", ["technologies", "passes", "backends", "formats"])
def test_lists_are_a_line_each(command: str) -> None:
    result = pfmc(command)
    assert result.returncode == 0
    assert all("  " in line for line in result.stdout.splitlines())


def test_plan_and_compile_agree_on_grouped_convolutions(tmp_path: Path) -> None:
    """Their matrices are block-diagonal: groups share tiles, and blocks of zeros cost none."""
    model = SAMPLES / "digits_cnn" / "model.onnx"
    planned = json.loads(pfmc("plan", model, "--json").stdout)
    made = json.loads(pfmc("compile", model, "-o", tmp_path / "chip", "--json").stdout)
    assert (planned["tiles"], planned["devices"]) == (made["tiles"], made["devices"])
    assert planned["parameters"] == made["parameters"]["mapped"]


def test_plan(bundle: Path) -> None:
    planned = json.loads(pfmc("plan", MODEL, "--json").stdout)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (planned["tiles"], planned["devices"]) == (manifest["tiles"], manifest["devices"])
    assert json.loads(pfmc("plan", "--parameters", "1e12", "--json").stdout)["tiles"] == 244140625


def test_the_report_is_one_file_with_pictures(bundle: Path, tmp_path: Path) -> None:
    assert pfmc("report", bundle, "-o", tmp_path / "r.html", "--data", TEST).returncode == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page


# What can be wrong with a model. Each entry writes a model into a folder, and names words of the line that must follow.


def dense(name: str = "w", **attributes: object) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    w = numpy_helper.from_array(np.ones((4, 3), dtype=np.float32), name)
    node = helper.make_node("MatMul", ["x", name], ["y"], "fc", **attributes)
    graph = helper.make_graph([node], "g", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def not_onnx(folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(b"\x00\xff" * 500)
    return path


def truncated(folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(MODEL.read_bytes()[:-2000])
    return path


def unknown_operator(folder: Path) -> Path:
    model = dense()
    model.graph.node[0].op_type = "MatMulOfNobody"
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def external(folder: Path, location: str) -> Path:
    model = dense()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "48")):
        tensor.external_data.add(key=key, value=value)
    (folder / "model").mkdir()
    (folder / "outside.bin").write_bytes(bytes(48))
    (folder / "model" / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "model" / "m.onnx"


def nothing_to_map(folder: Path) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "none.onnx", ("none.onnx",)),
        (lambda folder: folder, ()),
        (not_onnx, ("m.onnx",)),
        (truncated, ("m.onnx",)),
        (unknown_operator, ("MatMulOfNobody",)),
        (lambda folder: external(folder, "missing.bin"), ("missing.bin",)),
        (lambda folder: external(folder, "../outside.bin"), ("outside.bin",)),
        (nothing_to_map, ("m.onnx",)),
    ],
    ids=["no file", "a folder", "not ONNX", "truncated", "unknown operator", "data missing", "data outside", "nothing"],
)
def test_a_bad_model_is_refused(tmp_path: Path, make: Callable[[Path], Path], words: tuple[str, ...]) -> None:
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert_refused(pfmc("compile", path, "-o", tmp_path / "chip"), *words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, ("image",)),
        ({"picture": np.zeros((2, 64), np.float32)}, ("picture",)),
        ({"image": np.zeros((2, 63), np.float32)}, ("image", "64")),
        ({"image": np.zeros((2, 64), np.float64)}, ("image", "float")),
        ({"image": np.zeros((2, 64), np.float32), "labels": np.zeros(3, np.int64)}, ("labels",)),
        ({"image": np.full((2, 64), np.nan, np.float32)}, ("image",)),
        ({"image": np.array([object()])}, ("image",)),
    ],
)
def test_bad_data_are_refused(
    bundle: Path, tmp_path: Path, arrays: dict[str, np.ndarray], words: tuple[str, ...]
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    assert_refused(pfmc("compile", MODEL, "-o", tmp_path / "chip", "--calibration", tmp_path / "data.npz"), *words)
    assert_refused(pfmc("verify", bundle, "--data", tmp_path / "data.npz"), *words)
    assert list(tmp_path.iterdir()) == [tmp_path / "data.npz"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--technology", "tsmc2"], ("tsmc2", "sg13g2")),
        (["--technology", "none.toml"], ("none.toml",)),
        (["--target", "abacus"], ("abacus", "crossbar")),
        (["--set", "tile.rows=9999"], ("64",)),
        (["--set", "tile.row=9"], ("tile.row", "rows")),
        (["--set", "tile"], ("tile",)),
        (["--set", "nosuch.rows=9"], ("nosuch",)),
        (["--print-after", "nosuch"], ("nosuch",)),
        (["--add-pass", "nosuch"], ("nosuch",)),
        (["--calibration", "none.npz"], ("none.npz",)),
        (["--seed", "many"], ("seed",)),
        (["--no-such-option"], ("no-such-option",)),
    ],
)
def test_bad_usage_is_refused(tmp_path: Path, arguments: list[str], words: tuple[str, ...]) -> None:
    assert_refused(pfmc("compile", MODEL, "-o", tmp_path / "chip", *arguments), *words)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_not_empty_is_left_as_it_was(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "chip").mkdir()
    (tmp_path / "chip" / "precious").write_text("mine")
    assert_refused(pfmc("compile", MODEL, "-o", tmp_path / "chip"), "not empty")
    assert [p.name for p in tmp_path.rglob("*")] == ["chip", "precious"]
    assert_refused(pfmc("export", bundle, "--format", "nosuch", "-o", tmp_path / "x"), "nosuch", "gdsii")
    assert_refused(pfmc("export", bundle, "--format", "gdsii", "--tile", "t9", "-o", tmp_path / "x"), "t9")
    assert_refused(pfmc("verify", tmp_path), "manifest.json")


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the write fails in the same way."""
    result = pfmc("compile", MODEL, "-o", tmp_path / "chip", "--calibration", CALIBRATION, limit="200")
    assert_refused(result, "chip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_compile_leaves_nothing(tmp_path: Path, sent: signal.Signals) -> None:
    command = [*PFMC, "compile", str(MODEL), "-o", str(tmp_path / "chip"), "--calibration", str(CALIBRATION)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, sent)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stderr.splitlines() == ["pfmc: error: interrupted, nothing was written"]
    assert list(tmp_path.iterdir()) == []


def test_the_readme_shows_what_the_demo_prints(tmp_path: Path) -> None:
    """Line by line, but for the folder's name; what hangs on the last bit of a number may differ between processors."""
    printed = pfmc("demo", tmp_path / "pfmc-demo")
    assert printed.returncode == 0, printed.stderr
    readme = (SAMPLES.parent / "README.md").read_text()
    shown = [line for line in readme.split("## What it prints")[1].split("```")[1].splitlines() if line]
    made = [line.rstrip() for line in printed.stdout.replace(f"{tmp_path}/", "").splitlines() if line.strip()]
    assert len(made) == len(shown)
    for line, expected in zip(made, shown, strict=True):
        if expected.startswith("bundle"):
            sizes = [int(text.split()[-2].replace(",", "")) for text in (line, expected)]
            assert sizes[0] == pytest.approx(sizes[1], rel=1e-3)
        elif "relative error" not in expected:
            assert line == expected
    assert (tmp_path / "pfmc-demo" / "report.html").exists()
    assert (tmp_path / "pfmc-demo" / "tile.png").read_bytes()[:4] == b"\x89PNG"

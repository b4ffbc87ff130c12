"""Models that are broken or made to harm: one line each, in bounded time, from a process that survives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import model, node, saved, weights_model
from onnx import helper, numpy_helper

from pfmc.errors import ImportModelError
from pfmc.frontend import checks, importer
from pfmc.frontend.checks import check_proto, read_proto
from pfmc.frontend.importer import import_model

W = np.ones((4, 4), dtype=np.float32)


def refusal(path: Path, folder: Path) -> str:
    """What the user is told."""
    with pytest.raises(ImportModelError) as error:
        import_model(path, folder)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


# Not ONNX at all


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.onnx", tmp_path)


def test_a_folder(tmp_path: Path) -> None:
    assert "not a file" in refusal(tmp_path, tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "not a file" in refusal(tmp_path / "pipe.onnx", tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x89PNG\r\n\x1a\n", b"{}"])
def test_another_format(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert "not an ONNX" in refusal(tmp_path / "m.onnx", tmp_path)


def test_a_truncated_file(tmp_path: Path) -> None:
    content = weights_model(W).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content[: len(content) // 2])
    assert "not an ONNX file, or a damaged one" in refusal(tmp_path / "m.onnx", tmp_path)


@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_byte_is_refused_or_harmless(
    place: float, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(weights_model(W).SerializeToString())
    content[int(place * len(content))] = value
    (folder / "m.onnx").write_bytes(content)
    try:
        check_proto(read_proto(folder / "m.onnx"), folder / "m.onnx")
    except ImportModelError as e:
        assert "\n" not in str(e)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as f:
        f.truncate(3 * 2**30)
    assert "2 GiB" in refusal(tmp_path / "m.onnx", tmp_path)


# Refused by ONNX Runtime


def test_an_operator_that_nobody_knows(tmp_path: Path) -> None:
    made = model([node("Frobnicate", "x", "y")], {"x": [1, 4]}, ["y"])
    assert "Frobnicate" in refusal(saved(made, tmp_path), tmp_path)


def test_an_unknown_opset(tmp_path: Path) -> None:
    assert "opset" in refusal(saved(model([node("Neg", "x", "y")], {"x": [1]}, ["y"], opset=999), tmp_path), tmp_path)


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    made = model([node("MatMul", "x w", "y")], {"x": [2, 5]}, ["y"], {"w": W})
    assert "cannot load it" in refusal(saved(made, tmp_path), tmp_path)


def test_a_value_that_nobody_makes(tmp_path: Path) -> None:
    assert "cannot load it" in refusal(
        saved(model([node("Add", "x ghost", "y")], {"x": [1]}, ["y"]), tmp_path), tmp_path
    )


def folding(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said if the process that folds does this instead."""
    program = tmp_path / "folding.py"
    program.write_text(body)
    monkeypatch.setattr(importer.folding, "__file__", str(program))
    return refusal(saved(weights_model(W), tmp_path), tmp_path)


def test_a_crash_of_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = folding("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", tmp_path, monkeypatch)
    assert "crashed on it (signal 11)" in said


def test_onnx_runtime_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "FOLDING_SECONDS", 0.2)
    assert "did not load it in 0.2 s" in folding("import time; time.sleep(60)", tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand", "Tile"])
def test_a_constant_that_explodes_is_not_made(kind: str, tmp_path: Path) -> None:
    """Forty gigabytes, if folding made it."""
    size = np.array([100_000, 100_000])
    nodes = {
        "ConstantOfShape": node("ConstantOfShape", "size", "w"),
        "Expand": node("Expand", "one size", "w"),
        "Tile": node("Tile", "one size", "w"),
    }
    made = model(
        [nodes[kind], node("MatMul", "x w", "y")], {"x": [None, 100_000]}, ["y"], {"size": size, "one": W[:1, :1]}
    )
    assert "nothing to map" in refusal(saved(made, tmp_path), tmp_path)


def test_memory_of_the_process_that_folds_is_bounded(tmp_path: Path) -> None:
    """What ONNX Runtime's own limit lets through."""
    program = str(importer.folding.__file__)
    path = saved(weights_model(W), tmp_path)
    command = [sys.executable, "-P", program, str(path), str(tmp_path / "f.onnx"), str(100 * 2**20)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode != 0


# What kills or fools libraries


@pytest.mark.parametrize("attribute", ["strides", "dilations", "kernel_shape"])
@pytest.mark.parametrize("where", ["graph", "body", "function"])
def test_a_convolution_with_a_zero(attribute: str, where: str, tmp_path: Path) -> None:
    """onnx's shape inference dies of it, by SIGFPE."""
    conv = node("Conv", "x w", "y", **{attribute: [0, 0]})
    kernel = {"w": np.ones((1, 1, 1, 1), np.float32)}
    if where == "graph":
        made = model([conv], {"x": [1, 1, 4, 4]}, ["y"], kernel)
    elif where == "body":
        body = helper.make_graph([conv], "body", [], [onnx.ValueInfoProto(name="y")])
        made = model([node("If", "x", "z", then_branch=body, else_branch=body)], {"x": [1]}, ["z"], kernel)
    else:
        function = helper.make_function("local", "F", ["x", "w"], ["y"], [conv], [helper.make_opsetid("", 18)])
        made = model(
            [helper.make_node("F", ["x", "w"], ["y"], domain="local")],
            {"x": [1, 1, 4, 4]},
            ["y"],
            kernel,
            functions=[function],
            domains=["local"],
        )
    assert f"{attribute} must be positive" in refusal(saved(made, tmp_path), tmp_path)


def test_no_groups_at_all(tmp_path: Path) -> None:
    conv = node("Conv", "x w", "y", group=0)
    made = model([conv], {"x": [1, 1, 4]}, ["y"], {"w": np.ones((1, 1, 1), np.float32)})
    assert "group must be positive" in refusal(saved(made, tmp_path), tmp_path)


def functions(calls: dict[str, list[str]], *, inside_if: bool = False) -> onnx.ModelProto:
    """A model with functions that call each other."""
    made = []
    for name, called in calls.items():
        nodes = [helper.make_node(c, ["x"], ["y" if i == 0 else f"y{i}"], domain="f") for i, c in enumerate(called)]
        if inside_if:
            body = helper.make_graph(nodes, "body", [], [onnx.ValueInfoProto(name="y")])
            nodes = [node("If", "x", "y", then_branch=body, else_branch=body)]
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
        made.append(helper.make_function("f", name, ["x"], ["y"], nodes or [node("Neg", "x", "y")], imports))
    call = helper.make_node(next(iter(calls)), ["x"], ["y"], domain="f")
    return model([call], {"x": [1]}, ["y"], functions=made, domains=["f"])


@pytest.mark.parametrize("inside_if", [False, True])
@pytest.mark.parametrize("calls", [{"A": ["A"]}, {"A": ["B"], "B": ["C"], "C": ["A"]}])
def test_functions_that_call_themselves(calls: dict[str, list[str]], inside_if: bool, tmp_path: Path) -> None:
    """onnx and ONNX Runtime die of them, by SIGSEGV."""
    assert "calls itself" in refusal(saved(functions(calls, inside_if=inside_if), tmp_path), tmp_path)


@pytest.mark.parametrize("inside_if", [False, True])
def test_functions_that_double(inside_if: bool, tmp_path: Path) -> None:
    """Thirty-two small functions come to 2³² nodes."""
    calls = {f"f{i}": [f"f{i + 1}"] * 2 for i in range(32)} | {"f32": []}
    assert "more than 1,000,000" in refusal(saved(functions(calls, inside_if=inside_if), tmp_path), tmp_path)


def test_graphs_that_are_nested_too_deeply(tmp_path: Path) -> None:
    """Deeper than protobuf reads, so nothing that recurses behind it can run out of stack."""

    def wrapped(field: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size >= 0x80:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([field << 3 | 2]) + length + bytes([size]) + content

    graph = wrapped(1, wrapped(4, b"Neg"))
    for _ in range(5000):
        graph = wrapped(1, wrapped(5, wrapped(6, graph)))  # graph: node: attribute: g
    (tmp_path / "m.onnx").write_bytes(wrapped(7, graph))
    assert "not an ONNX file, or a damaged one" in refusal(tmp_path / "m.onnx", tmp_path)


def test_names_that_are_not_text(tmp_path: Path) -> None:
    content = weights_model(W).SerializeToString()
    for old, text in ((b"MatMul", b"Mat\xff\xfel"), (b"\x0a\x01x", b"\x0a\x01\xff")):
        assert old in content
        (tmp_path / "m.onnx").write_bytes(content.replace(old, text))
        assert "not valid text" in refusal(tmp_path / "m.onnx", tmp_path)


# Sizes that are not what they say


def tensor_of(made: onnx.ModelProto) -> onnx.TensorProto:
    return made.graph.initializer[0]


@pytest.mark.parametrize("dims", [[4, 5], [10**9, 10**9], [2**62, 2**62], [0, 4]])
def test_a_tensor_that_is_not_as_large_as_it_says(dims: list[int], tmp_path: Path) -> None:
    made = weights_model(W)
    tensor_of(made).dims[:] = dims
    assert "has 64 bytes and should have" in refusal(saved(made, tmp_path), tmp_path)


def test_a_tensor_with_a_negative_extent(tmp_path: Path) -> None:
    made = weights_model(W)
    tensor_of(made).dims[:] = [-4, -4]
    assert "negative extent" in refusal(saved(made, tmp_path), tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number(value: float, tmp_path: Path) -> None:
    weights = np.ones((40, 40), np.float32)
    weights[7, 9] = value
    assert "the weight w holds NaN or infinity" in refusal(saved(weights_model(weights), tmp_path), tmp_path)


def test_a_bias_that_is_no_number(tmp_path: Path) -> None:
    made = model([node("Gemm", "x w b", "y")], {"x": [None, 4]}, ["y"], {"w": W, "b": np.full(4, np.nan, np.float32)})
    assert "bias holds NaN" in refusal(saved(made, tmp_path), tmp_path)


# External data


def test_external_data_below_the_model(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(bytes(8) + (W * 3).tobytes())
    path = saved(weights_model(W, location="data/w.bin", offset="8", length="64"), tmp_path)
    (tmp_path / "work").mkdir()
    found = import_model(path, tmp_path / "work")
    assert found.files == (path, tmp_path / "data" / "w.bin")
    (contraction,) = found.graph.contractions()
    assert np.array_equal(contraction.weight.map(), W * 3)


def inside(tmp_path: Path) -> Path:
    """A folder for the model, beside a file that it must not read."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "sub").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (folder / "w.bin").write_bytes(bytes(64))
    return folder


def absolute(tmp_path: Path) -> str:
    return str(tmp_path / "secret.bin")


def link(tmp_path: Path) -> str:
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "secret.bin")
    return "link.bin"


def link_to_a_folder(tmp_path: Path) -> str:
    (tmp_path / "model" / "linked").symlink_to(tmp_path)
    return "linked/secret.bin"


@pytest.mark.parametrize(
    "location",
    [
        lambda _: "../secret.bin",
        lambda _: "sub/../../secret.bin",
        lambda _: "../model/w.bin",  # leaves and comes back: a copy of it would be written elsewhere
        lambda _: "",
        lambda _: ".",
        lambda _: "a\0b",
        absolute,
        link,
        link_to_a_folder,
    ],
)
def test_external_data_elsewhere(location: Callable[[Path], str], tmp_path: Path) -> None:
    folder = inside(tmp_path)
    made = weights_model(W, location=location(tmp_path), offset="0", length="64")
    assert "outside the model's folder" in refusal(saved(made, folder), tmp_path)


def test_external_data_elsewhere_in_a_body(tmp_path: Path) -> None:
    folder = inside(tmp_path)
    branch = weights_model(W, location="../secret.bin").graph
    del branch.input[:]
    made = model([node("If", "c", "y", then_branch=branch, else_branch=branch)], {"c": [1]}, ["y"])
    assert "outside the model's folder" in refusal(saved(made, folder), tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "missing.bin"}, "external data are missing: missing.bin"),
        ({"location": "sub"}, "external data are missing: sub"),
        ({"location": "w.bin", "offset": "1"}, "do not fit the file w.bin"),
        ({"location": "w.bin", "offset": "-8", "length": "64"}, "do not fit the file w.bin"),
        ({"location": "w.bin", "length": "60"}, "do not fit the file w.bin"),
        ({"location": "w.bin", "length": str(2**80)}, "do not fit the file w.bin"),
        ({"location": "w.bin", "offset": "one"}, "is not a number"),
    ],
)
def test_external_data_that_do_not_fit(entries: dict[str, str], message: str, tmp_path: Path) -> None:
    folder = inside(tmp_path)
    assert message in refusal(saved(weights_model(W, **entries), folder), tmp_path)


# Nothing to do


def test_nothing_to_map(tmp_path: Path) -> None:
    made = model([node("MatMul", "x x", "h"), node("Relu", "h", "y")], {"x": [4, 4]}, ["y"])
    assert "nothing to map" in refusal(saved(made, tmp_path), tmp_path)


def test_nothing_to_map_says_why(tmp_path: Path) -> None:
    """Of a recurrent operator both matrices must be constant."""
    lstm = node("LSTM", "x w r", "y", hidden_size=2)
    made = model([lstm], {"x": [3, 1, 4], "r": [1, 8, 2]}, ["y"], {"w": np.ones((1, 8, 4), np.float32)})
    said = refusal(saved(made, tmp_path), tmp_path)
    assert "nothing to map" in said
    assert "LSTM is not mapped" in said


def test_an_input_that_is_no_tensor(tmp_path: Path) -> None:
    nodes = [node("SequenceAt", "s i", "x"), node("MatMul", "x w", "y")]
    made = model(nodes, {}, ["y"], {"w": W, "i": np.int64(0)})
    made.graph.input.append(helper.make_tensor_sequence_value_info("s", 1, [None, 4]))
    assert "input s" in refusal(saved(made, tmp_path), tmp_path)


def test_the_line_shows_no_control_characters(tmp_path: Path) -> None:
    made = weights_model(np.full((4, 4), np.nan, np.float32))
    made.graph.node[0].name = "evil\x1b[31m\nname"
    said = refusal(saved(made, tmp_path), tmp_path)
    assert said.isprintable()


def test_a_hostile_name_is_no_path(tmp_path: Path) -> None:
    """Node and tensor names are data."""
    folder = inside(tmp_path)
    made = weights_model(W)
    made.graph.node[0].name = "../../escaped"
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(W, "../../escaped.bin"))
    made.graph.node[0].input[1] = "../../escaped.bin"
    work = tmp_path / "work"
    work.mkdir()
    before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(work)}
    import_model(saved(made, folder), work)
    assert {p for p in tmp_path.rglob("*") if not p.is_relative_to(work)} - before == {folder / "m.onnx"}


def test_the_budget_is_that_of_inlined_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls of two: five nodes are not more than five."""
    made = functions({"A": ["B", "B"], "B": ["C", "C"], "C": []})
    for budget in (4, 3):
        monkeypatch.setattr(checks, "MAX_INLINED_NODES", budget)
        if budget == 4:
            check_proto(made, tmp_path / "m.onnx")
        else:
            with pytest.raises(ImportModelError, match="comes to 4 nodes, more than 3"):
                check_proto(made, tmp_path / "m.onnx")

"""The crossbar with wires against judges that know nothing of its method: nodal analysis, badcrossbar, ngspice."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfmc.errors import UsageError
from pfmc.physics.network import Wires, transfer_adjoint, transfer_matrix, wire_loading

RESISTANCE = st.floats(0.05, 50.0)


def random_array(rows: int, columns: int, seed: int, absent: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(10 ** rng.uniform(-6, -4, (rows, columns)) * (rng.random((rows, columns)) >= absent))


def nodal(g: np.ndarray, wires: Wires) -> np.ndarray:
    return currents(g, wires, np.eye(len(g)))


def currents(g: np.ndarray, wires: Wires, v: np.ndarray) -> np.ndarray:
    """Column currents per vector of row voltages v (*vectors, rows), by dense nodal analysis.

    Two nodes per crossing, one resistor stamped after another.
    """
    rows, columns = g.shape
    row, column = (np.broadcast_to(r, g.shape) for r in (wires.row_segment, wires.column_segment))
    Y, source = np.zeros((2 * g.size, 2 * g.size)), np.zeros((2 * g.size, rows))

    def node(i: int, j: int, layer: int) -> int:
        return 2 * (i * columns + j) + layer

    def resistor(a: int, b: int, siemens: float) -> None:
        Y[[a, b], [a, b]] += siemens
        Y[[a, b], [b, a]] -= siemens

    last = 1 / (wires.sense + column[0])
    for i in range(rows):
        for j in range(columns):
            resistor(node(i, j, 0), node(i, j, 1), g[i, j])
            if j:
                resistor(node(i, j - 1, 0), node(i, j, 0), 1 / row[i, j])
            if i:
                resistor(node(i - 1, j, 1), node(i, j, 1), 1 / column[i, j])
        for j in [0, columns - 1] if wires.double_ended else [0]:
            Y[node(i, j, 0), node(i, j, 0)] += 1 / (wires.driver + row[i, j])
            source[node(i, j, 0), i] += 1 / (wires.driver + row[i, j])
    ends = [node(0, j, 1) for j in range(columns)]
    Y[ends, ends] += last
    return np.asarray(last * np.linalg.solve(Y, source @ v.T)[ends].T)


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 99),
    RESISTANCE,
    RESISTANCE,
    RESISTANCE,
    RESISTANCE,
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_segment_counts(
    rows: int, columns: int, seed: int, row: float, column: float, driver: float, sense: float, double: bool
) -> None:
    g, wires = random_array(rows, columns, seed, 0.3), Wires(row, column, driver, sense, double)
    np.testing.assert_allclose(transfer_matrix(g, wires), nodal(g, wires), rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(1, 17), (17, 1), (12, 9)])
def test_each_segment_and_each_tile_by_itself(shape: tuple[int, int], double: bool) -> None:
    rng = np.random.default_rng(8)
    g = rng.uniform(3e-5, 3e-4, (2, 3, *shape))
    row, column = rng.uniform(0.02, 3, g.shape), rng.uniform(0.02, 3, (2, 1, *shape))
    found = transfer_matrix(g, Wires(row, column, 1.0, 1.2, double))
    for tile in np.ndindex(2, 3):
        alone = Wires(row[tile], column[tile[0], 0], 1.0, 1.2, double)
        np.testing.assert_allclose(found[tile], nodal(g[tile], alone), rtol=1e-11)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(13, 22), (31, 5)])
def test_sizes_that_do_not_halve(shape: tuple[int, int], double: bool) -> None:
    g, wires = random_array(*shape, 1, 0.1), Wires(1.5, 0.7, 20.0, 3.0, double)
    np.testing.assert_allclose(transfer_matrix(g, wires), nodal(g, wires), rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize("double", [False, True])
def test_without_wires_the_conductance_itself(double: bool) -> None:
    g = random_array(33, 20, 2, 0.1)
    np.testing.assert_allclose(transfer_matrix(g, Wires(0.0, 0.0, double_ended=double)), g, rtol=1e-12)


@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 99), st.booleans())
@settings(max_examples=25, deadline=None)
def test_adjoint_is_the_gradient(rows: int, columns: int, seed: int, double: bool) -> None:
    rng = np.random.default_rng(seed)
    g, wires = random_array(rows, columns, seed), Wires(40.0, 25.0, 60.0, 30.0, double)
    gradient, direction = rng.normal(size=g.shape), rng.normal(size=g.shape) * g
    h = 1e-4
    slope = (transfer_matrix(g + h * direction, wires) - transfer_matrix(g - h * direction, wires)) / (2 * h)
    scale = np.abs(gradient * slope).sum()
    assert abs((gradient * slope).sum() - (transfer_adjoint(g, wires, gradient) * direction).sum()) < 1e-7 * scale


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(9, 14), (19, 40), (40, 19), (37, 37)])
@pytest.mark.parametrize("share", [0.01, 0.4, 0.6, 1.0])
def test_of_some_rows_and_columns_only(shape: tuple[int, int], share: float, double: bool) -> None:
    """The others load the wires all the same."""
    g, wires = random_array(*shape, 5, 0.1), Wires(1.5, 0.7, 20.0, 3.0, double)
    used = int(np.ceil(share * shape[0])), int(np.ceil((1.01 - share) * shape[1]))
    found = transfer_matrix(g, wires, used)
    assert found.shape == used
    np.testing.assert_allclose(found, transfer_matrix(g, wires)[: used[0], : used[1]], rtol=1e-10)


@given(st.integers(1, 11), st.integers(1, 11), st.integers(0, 99), st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_segment_by_itself(rows: int, columns: int, seed: int, double: bool) -> None:
    rng = np.random.default_rng(seed)
    g = random_array(rows, columns, seed, 0.2)
    wires = Wires(rng.uniform(0.05, 50, g.shape), rng.uniform(0.05, 50, g.shape), 3.0, 2.0, double)
    np.testing.assert_allclose(transfer_matrix(g, wires), nodal(g, wires), rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(11, 19), (18, 7)])
def test_adjoint_of_tiles_and_segments_by_themselves(shape: tuple[int, int], double: bool) -> None:
    rng = np.random.default_rng(10)
    g = rng.uniform(3e-5, 3e-4, (2, 2, *shape))
    row, column = rng.uniform(1, 40, g.shape), rng.uniform(1, 40, (2, 1, *shape))
    wires, gradient, direction = (
        Wires(row, column, 6.0, 3.0, double),
        rng.normal(size=g.shape),
        rng.normal(size=g.shape),
    )
    h, direction = 1e-4, direction * g
    slope = (transfer_matrix(g + h * direction, wires) - transfer_matrix(g - h * direction, wires)) / (2 * h)
    wanted, scale = (gradient * slope).sum(axis=(2, 3)), np.abs(gradient * slope).sum(axis=(2, 3))
    found = (transfer_adjoint(g, wires, gradient) * direction).sum(axis=(2, 3))
    assert (np.abs(found - wanted) < 1e-7 * scale).all()


@pytest.mark.parametrize("double", [False, True])
def test_all_rows_driven_at_once_draw_the_sum_of_the_currents(double: bool) -> None:
    """Superposition: one solve with all sources on, by nodal analysis, against the transfer matrix."""
    g, wires = random_array(12, 10, 11, 0.1), Wires(2.0, 1.0, 4.0, 3.0, double)
    v = np.random.default_rng(12).normal(size=12)
    np.testing.assert_allclose(v @ transfer_matrix(g, wires), currents(g, wires, v), rtol=1e-9)


def test_adjoint_without_wires_is_the_gradient_itself() -> None:
    gradient = np.random.default_rng(0).normal(size=(12, 7))
    found = transfer_adjoint(random_array(12, 7, 3, 0.2), Wires(0.0, 0.0), gradient)
    np.testing.assert_allclose(found, gradient, rtol=1e-12)


def test_badcrossbar_agrees() -> None:
    badcrossbar = pytest.importorskip("badcrossbar")
    g = random_array(24, 17, 4)
    solution = badcrossbar.compute(np.eye(24), 1 / g[::-1], r_i_word_line=1.3, r_i_bit_line=0.8)
    peer = np.asarray(solution.currents.output)[::-1]
    np.testing.assert_allclose(transfer_matrix(g, Wires(1.3, 0.8)), peer, rtol=1e-9)


def test_ngspice_agrees(tmp_path: Path) -> None:
    if not shutil.which("ngspice"):
        pytest.skip("ngspice is not installed")
    g, wires = random_array(5, 6, 5), Wires(2.0, 3.0, 11.0, 7.0, double_ended=True)
    rows, columns = g.shape
    lines = ["crossbar", "Vin in 0 1"]
    for i in range(rows):
        lines.append(f"Rd{i} {'in' if i == 2 else '0'} r{i}_0 {wires.driver + wires.row_segment}")
        lines.append(f"Re{i} {'in' if i == 2 else '0'} r{i}_{columns - 1} {wires.driver + wires.row_segment}")
        for j in range(columns):
            lines.append(f"Rg{i}_{j} r{i}_{j} c{i}_{j} {1 / g[i, j]:.17g}")
            lines += [f"Rr{i}_{j} r{i}_{j - 1} r{i}_{j} {wires.row_segment}"] if j else []
            lines += [f"Rc{i}_{j} c{i - 1}_{j} c{i}_{j} {wires.column_segment}"] if i else []
    for j in range(columns):
        lines += [f"Rs{j} c0_{j} s{j} {wires.sense + wires.column_segment}", f"Vs{j} s{j} 0 0"]
    prints = [f"print i(Vs{j})" for j in range(columns)]
    lines += [".control", "set numdgt=15", "op", *prints, "quit", ".endc", ".end"]
    (tmp_path / "x.cir").write_text("\n".join(lines))
    text = subprocess.run(["ngspice", "-b", "x.cir"], cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    peer = [float(line.split("=")[1]) for line in text.splitlines() if line.startswith("i(vs")]
    np.testing.assert_allclose(transfer_matrix(g, wires)[2], peer, rtol=1e-9)


@pytest.mark.parametrize("g", [np.array([[-1.0]]), np.array([[np.nan]]), np.zeros((0, 3))])
def test_impossible_conductances_are_refused(g: np.ndarray) -> None:
    with pytest.raises(UsageError):
        transfer_matrix(g, Wires(1.0, 1.0))


def test_negative_wires_are_refused() -> None:
    with pytest.raises(UsageError, match="row_segment"):
        Wires(-1.0, 1.0)


@pytest.mark.parametrize("double", [False, True])
def test_an_almost_open_segment_leaves_the_rest_exact(double: bool) -> None:
    g = np.random.default_rng(6).uniform(3e-5, 3e-4, (40, 24))
    row, column = np.full(g.shape, 0.5), np.full(g.shape, 0.3)
    row[7, 10] = column[20, 5] = 1e12
    wires, away = Wires(row, column, 1.0, 1.0, double), np.ones(g.shape, bool)
    away[7, 10:] = away[20:, 5] = False
    np.testing.assert_allclose(transfer_matrix(g, wires)[away], nodal(g, wires)[away], rtol=1e-9)


@pytest.mark.parametrize("shape", [(64, 128), (40, 70), (70, 9)])
def test_reciprocity_of_large_tiles(shape: tuple[int, int]) -> None:
    """Drivers and sense nodes may change places: the transposed array with its wires exchanged."""
    rng = np.random.default_rng(7)
    g, row, column = 1 / rng.uniform(3e3, 3e4, shape), rng.uniform(0.02, 3, shape), rng.uniform(0.02, 3, shape)
    there = transfer_matrix(g, Wires(row, column, 1.0, 2.0))
    np.testing.assert_allclose(there, transfer_matrix(g.T.copy(), Wires(column.T, row.T, 2.0, 1.0)).T, rtol=1e-12)


@pytest.mark.parametrize("double", [False, True])
def test_dense_nodal_analysis_agrees_at_several_levels_of_blocks(double: bool) -> None:
    g, wires = 1 / np.random.default_rng(3).uniform(3e3, 3e4, (33, 34)), Wires(0.4, 0.2, 1.0, 1.0, double)
    np.testing.assert_allclose(transfer_matrix(g, wires), nodal(g, wires), rtol=1e-11)


@pytest.mark.parametrize("zero", ["rows", "columns", "both"])
@pytest.mark.parametrize("double", [False, True])
def test_zero_is_the_limit_of_small_wires(zero: str, double: bool) -> None:
    g = np.random.default_rng(9).uniform(3e-5, 3e-4, (9, 20)) * (np.arange(20) != 3)
    row, column = 0.0 if zero != "columns" else 2.0, 0.0 if zero != "rows" else 2.0
    found = transfer_matrix(g, Wires(row, column, 0.0, 0.0, double))
    limit = transfer_matrix(g, Wires(max(row, 1e-10), max(column, 1e-10), 0.0, 0.0, double))
    np.testing.assert_allclose(found, limit, rtol=1e-11)


def test_wire_loading_is_the_longer_wire_against_the_strongest_device() -> None:
    assert wire_loading(1e-3, Wires(0.1, 0.3, 5.0, 5.0), 10, 40) == pytest.approx(1e-3 * 0.1 * 40)
    assert wire_loading(1e-3, Wires(0.1, np.array([[0.2], [0.8]]), 5.0, 5.0), 10, 40) == pytest.approx(1e-3 * 0.5 * 10)

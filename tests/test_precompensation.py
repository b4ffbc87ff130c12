"""Pre-compensation against judges that know nothing of its network solver: nodal analysis and badcrossbar."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pfmc.errors import CapacityError, UsageError
from pfmc.physics.network import Wires
from pfmc.physics.precompensation import PairArray, Precompensated, feasible_scale, precompensate

HIGH = 1e-4


def solve(target: np.ndarray, array: PairArray, scale: float | None = None, low: float = 0.05) -> Precompensated:
    return precompensate(target, array, conductance_min=low * HIGH, conductance_max=HIGH, scale=scale)


def nodal(pairs: np.ndarray, wires: Wires) -> np.ndarray:
    """Effective matrix by dense nodal analysis: an incidence matrix of all resistors, one dense solution."""
    g = pairs.reshape(len(pairs), -1)
    rows, columns = g.shape
    row, column = (np.broadcast_to(r, g.shape) for r in (wires.row_segment, wires.column_segment))
    on_row = np.arange(g.size).reshape(g.shape)
    on_column, source = on_row + g.size, 2 * g.size + np.arange(rows)
    ground = 2 * g.size + rows
    ends = [(on_row, on_column, g), (on_row[:, :-1], on_row[:, 1:], 1 / row[:, 1:])]
    ends += [(on_column[:-1], on_column[1:], 1 / column[1:]), (source, on_row[:, 0], 1 / (row[:, 0] + wires.driver))]
    if wires.double_ended:
        ends.append((source, on_row[:, -1], 1 / (row[:, -1] + wires.driver)))
    last = 1 / (column[0] + wires.sense)
    ends.append((on_column[0], np.full(columns, ground), last))
    Y = np.zeros((ground + 1, ground + 1))
    for one, other, siemens in ends:
        a, b, s = (np.asarray(x).ravel() for x in (one, other, siemens))
        np.add.at(Y, (a, a), s)
        np.add.at(Y, (b, b), s)
        np.add.at(Y, (a, b), -s)
        np.add.at(Y, (b, a), -s)
    inner = 2 * g.size
    voltage = np.linalg.solve(Y[:inner, :inner], -Y[:inner, source])
    W = (last[:, None] * voltage[on_column[0]]).T
    return np.asarray(W[:, 0::2] - W[:, 1::2])


def error(pairs: np.ndarray, wires: Wires, wanted: np.ndarray) -> float:
    """Relative error of the part of the effective matrix that is wanted."""
    found = nodal(pairs, wires)[: wanted.shape[0], : wanted.shape[1]]
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


SMALL = st.tuples(st.integers(1, 6), st.integers(1, 6))
WEIGHTS = st.one_of(st.just(0.0), st.floats(-1, 1, width=16), st.sampled_from([-1.0, 1.0, 1e-3]))


@given(
    SMALL.flatmap(lambda shape: arrays(np.float64, shape, elements=WEIGHTS)).filter(np.any),
    st.floats(0, 300),
    st.floats(0, 300),
    st.floats(0.01, 300),
    st.booleans(),
)
@settings(max_examples=60)
def test_the_effective_matrix_is_the_target(
    target: np.ndarray, row: float, column: float, end: float, double: bool
) -> None:
    """Zeros, one sign only, one large weight: at the largest scale, which uses the whole range and never leaves it."""
    wires = Wires(row + 0.01, column + 0.01, end, end, double)
    found = solve(target, PairArray(wires, *target.shape))
    assert error(found.conductance, wires, found.scale * target) < 2e-6
    assert 0.05 * HIGH <= found.conductance.min() <= found.conductance.max() <= HIGH * (1 + 1e-9)
    assert found.conductance.max() > 0.999 * HIGH
    assert 0 < found.scale <= found.ideal_scale == 0.95 * HIGH / np.abs(target).max()


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5), st.floats(0.01, 0.99))
def test_a_block_in_a_larger_array(seed: int, rows: int, columns: int, share: float) -> None:
    """The devices beside the block load its wires; a scale that is given is kept."""
    target = np.random.default_rng(seed).standard_normal((rows, columns))
    rng = np.random.default_rng(seed)
    wires = Wires(rng.uniform(1, 60, (1, 10)), rng.uniform(1, 60, (6, 1)), 30.0, 20.0)
    array = PairArray(wires, 6, 5, unused=0.3 * HIGH)
    largest = solve(target, array)
    found = solve(target, array, scale=share * largest.scale)
    assert found.scale == share * largest.scale
    assert error(array.whole(found.conductance), wires, found.scale * target) < 2e-6
    assert largest.scale < solve(target, PairArray(Wires(1.0, 1.0), 6, 5)).scale
    assert solve(target, array, scale=largest.scale).residual < 1e-5


SIDES = st.sampled_from([1, 2, 5, 12, 24])
LOADS = st.floats(1e-3, 0.3)


@st.composite
def loaded(draw: st.DrawFn) -> tuple[np.ndarray, PairArray, float]:
    """A target, an array that it loads, and the least conductance: normal, heavy-tailed, sparse, or all of one size.

    Rows, columns and signs that are alike are where currents through several devices add up.
    """
    rows, columns = draw(SIDES), draw(SIDES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m, n = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    kinds = rng.standard_normal((m, n)), rng.standard_t(2, (m, n)), rng.random((m, n)), np.ones((m, n))
    target = draw(st.sampled_from(kinds)) * (rng.random((m, n)) < draw(st.sampled_from([1.0, 1.0, 0.05])))
    signs = draw(st.sampled_from([(1, 1), (m, 1), (1, n), (m, n)]))
    target = target * rng.choice([-1.0, 1.0], signs) * draw(st.sampled_from([1.0, 0.3, 1e-3]))
    target[draw(st.sampled_from([0, -1])), draw(st.sampled_from([0, -1]))] = draw(st.sampled_from([-1.0, 1.0]))
    ends = draw(LOADS) / HIGH / columns / 4, draw(LOADS) / HIGH / rows / 2
    segments = draw(LOADS) / HIGH / columns / 2, draw(LOADS) / HIGH / rows
    low = draw(st.floats(1e-3, 0.4))
    return target, PairArray(Wires(*segments, *ends, draw(st.booleans())), rows, columns, low * HIGH), low


@given(loaded())
@settings(max_examples=300, deadline=None)
def test_a_feasible_scale_is_feasible_and_near_the_largest(case: tuple[np.ndarray, PairArray, float]) -> None:
    """By the exact search; loads from light ones, where the network is not solved, to those that leave a tenth."""
    target, array, low = case
    try:
        largest = solve(target, array, low=low).scale
    except CapacityError:
        return
    found = feasible_scale(target, array, conductance_min=low * HIGH, conductance_max=HIGH)
    assert 0.99 * largest <= found <= largest
    assert solve(target, array, scale=found, low=low).scale == found


def test_ideal_wires_need_no_compensation(rng: np.random.Generator) -> None:
    target = rng.standard_normal((5, 4))
    found = solve(target, PairArray(Wires(0.0, 0.0), 5, 4))
    assert found.scale == pytest.approx(found.ideal_scale)
    difference = found.conductance[..., 0] - found.conductance[..., 1]
    np.testing.assert_allclose(difference, found.scale * target, atol=1e-8 * HIGH)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("load", [0.01, 0.1, 0.5])
def test_compensated_against_not(rng: np.random.Generator, load: float, double: bool) -> None:
    """Six orders of magnitude, judged by nodal analysis, in at most 20 solutions; badcrossbar judges below."""
    n = 16
    target, wires = rng.standard_normal((n, n)), Wires(load / HIGH / n, load / HIGH / n, 10.0, 10.0, double)
    found = solve(target, PairArray(wires, n, n))
    assert error(found.conductance, wires, found.scale * target) < 2e-6
    ignored = 0.05 * HIGH + np.maximum(np.stack([target, -target], axis=-1), 0) * found.scale
    assert error(ignored, wires, found.scale * target) > 0.1 * load
    assert found.evaluations <= 20
    again = solve(target, PairArray(wires, n, n))
    np.testing.assert_array_equal(again.conductance, found.conductance)


def test_badcrossbar_agrees(rng: np.random.Generator) -> None:
    badcrossbar = pytest.importorskip("badcrossbar")
    n, wires = 16, Wires(30.0, 30.0)
    target = rng.standard_normal((n, n))
    found = solve(target, PairArray(wires, n, n))
    # Its columns are sensed below their last row, and it takes one word line voltage vector per column.
    resistance = 1 / found.conductance.reshape(n, 2 * n)[::-1]
    W = np.asarray(badcrossbar.compute(np.eye(n), resistance, r_i=30.0).currents.output)[::-1]
    np.testing.assert_allclose(W[:, 0::2] - W[:, 1::2], found.scale * target, atol=1e-5 * found.scale)


def test_a_scale_that_is_too_large_is_explained(rng: np.random.Generator) -> None:
    """Where the range ends first, by what factor, and what would do; what it says would do, does."""
    n, wires = 24, Wires(20.0, 20.0)
    target = rng.standard_normal((n, n))
    largest = solve(target, PairArray(wires, n, n))
    goal = 1.1 * largest.scale
    with pytest.raises(CapacityError, match=r"1\.1 times what the wires leave, r·G_max·N = 0\.096") as caught:
        solve(target, PairArray(wires, n, n), scale=goal)
    difference = np.abs(largest.conductance[..., 0] - largest.conductance[..., 1])
    row, column = np.unravel_index(difference.argmax(), difference.shape)
    assert caught.value.where is not None
    assert caught.value.where.startswith(f"row {row}, column {column} ")
    assert caught.value.fix is not None
    assert f"a scale of at most {largest.scale:.4g} S, wires of 60 % of this resistance" in caught.value.fix
    easier = solve(target, PairArray(Wires(12.0, 12.0), n, n), scale=goal)
    assert easier.residual < 1e-6


def test_hopeless_wires_are_said_to_be(rng: np.random.Generator) -> None:
    with pytest.raises(CapacityError, match=r"the wires leave next to nothing.*a smaller array or wider wires"):
        solve(rng.standard_normal((32, 32)), PairArray(Wires(2e4, 2e4), 32, 32), low=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.full((2, 2), np.nan)}, "not finite"),
        ({"target": np.ones((3, 2))}, "larger than the array"),
        ({"target": np.zeros((2, 2))}, "zeros has no largest scale"),
        ({"conductance_min": -1.0}, "empty or negative"),
        ({"conductance_max": 0.0}, "empty or negative"),
    ],
)
def test_wrong_arguments(change: dict[str, object], message: str) -> None:
    arguments = {"target": np.ones((2, 2)), "conductance_min": 0.0, "conductance_max": HIGH} | change
    with pytest.raises(UsageError, match=message):
        precompensate(array=PairArray(Wires(1.0, 1.0), 2, 2), **arguments)  # type: ignore[arg-type]

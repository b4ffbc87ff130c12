"""What the comparison says of outputs that are close, far, or no numbers, and when a verdict passes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pfmc.backend import RuleCheck, Violated
from pfmc.check.compare import Comparison, OutputComparison, compare
from pfmc.check.verify import Verification
from pfmc.errors import DataError, VerifyError


def one(reference: object, fabricated: object) -> OutputComparison:
    return compare({"y": np.asarray(reference)}, {"y": np.asarray(fabricated)}, None).outputs["y"]


def test_the_definitions_by_hand() -> None:
    found = one([[3.0, 0.0], [0.0, 4.0]], [[3.0, 0.0], [1.0, 0.0]])
    assert found.relative_error == pytest.approx(np.sqrt(1 + 16) / 5)
    assert found.cosine == pytest.approx(9 / (5 * np.sqrt(10)))
    assert found.agreement == 0.5


@given(
    hnp.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    hnp.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
)
def test_any_numbers_give_numbers_or_none(a: np.ndarray, b: np.ndarray) -> None:
    found = one(a, b)
    json.dumps(found.__dict__, allow_nan=False)
    assert 0 <= found.agreement <= 1
    if found.relative_error is not None and found.cosine is not None:
        assert found.relative_error >= 0
        assert abs(found.cosine) <= 1 + 1e-9
    assert (found.relative_error == 0) == np.array_equal(a, b)


def test_equal_outputs_have_no_error_even_if_they_are_zero() -> None:
    for values in (np.zeros((2, 3), np.float32), np.ones((2, 3), np.float16), np.zeros((2, 0), np.float32)):
        assert one(values, values) == OutputComparison(0.0, 1.0, 1.0)


def test_all_zero_instead_of_something_is_an_error_of_one() -> None:
    assert one([[1.0, 2.0]], [[0.0, 0.0]]) == OutputComparison(1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("reference", "fabricated"),
    [
        ([[0.0, 0.0]], [[1.0, 0.0]]),
        ([[1.0, 2.0]], [[1.0, np.nan]]),
        ([[1.0, np.inf]], [[1.0, np.inf]]),
        ([[np.nan, 1.0]], [[np.nan, 1.0]]),
        ([[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]]),
    ],
    ids=["something instead of zero", "NaN", "infinity in both", "NaN in both", "another shape"],
)
def test_what_is_no_number_never_passes(reference: object, fabricated: object) -> None:
    found = one(reference, fabricated)
    assert found.relative_error is None
    assert found.cosine is None
    assert not verdict(found, tolerance=1e300).passed


def test_nan_agrees_with_nothing() -> None:
    assert one([[np.nan, 1.0], [0.0, 1.0]], [[np.nan, 1.0], [0.0, 1.0]]).agreement == 0.5


def test_large_numbers_do_not_overflow() -> None:
    assert one([[1e200, 0.0]], [[1e200, 1e199]]).relative_error == pytest.approx(0.1)


def test_every_position_counts_for_agreement() -> None:
    reference = np.eye(3)[np.array([[0, 1], [2, 2]])]
    fabricated = np.eye(3)[np.array([[0, 1], [2, 1]])]
    assert one(reference, fabricated).agreement == 0.75


def test_outputs_that_are_decisions_themselves() -> None:
    assert one(np.array([1, 2, 3, 3]), np.array([1, 2, 3, 1])).agreement == 0.75
    assert one(np.array([[1], [2]]), np.array([[1], [1]])).agreement == 0.5
    assert one(np.array([0.5, 0.25]), np.array([0.5, 0.3])).agreement == 0.5
    assert one(np.array([True, False]), np.array([True, False])).relative_error == 0
    text = one(np.array(["cat", "dog"], object), np.array(["cat", "cat"], object))
    assert text == OutputComparison(1.0, 0.5, 0.5)


def test_the_models_must_have_the_same_outputs() -> None:
    with pytest.raises(VerifyError, match="output z"):
        compare({"y": np.ones(2)}, {"y": np.ones(2), "z": np.ones(2)}, None)


def test_accuracy_uses_the_first_output_that_the_labels_fit() -> None:
    logits = np.eye(3)[[0, 1, 2, 2]]
    worse = np.eye(3)[[0, 1, 2, 0]]
    reference = {"probability": np.ones((4, 1)), "hidden": np.ones((4, 5, 3)), "logits": logits}
    labels = np.array([0, 1, 2, 2])
    found = compare(reference, reference | {"logits": worse}, labels)
    assert found.accuracy == {"reference": 1.0, "fabricated": 0.75}
    broken = compare(reference, reference | {"logits": np.full((4, 3), np.nan)}, labels)
    assert broken.accuracy == {"reference": 1.0, "fabricated": 0.0}


def test_labels_per_position_and_of_decisions() -> None:
    classes = np.array([[0, 1], [2, 2]])
    assert compare({"y": np.eye(3)[classes]}, {"y": np.eye(3)[classes]}, classes).accuracy == {
        "reference": 1.0,
        "fabricated": 1.0,
    }
    wrong = np.array([[0, 1], [2, 0]])
    assert compare({"y": classes}, {"y": wrong}, classes).accuracy == {"reference": 1.0, "fabricated": 0.75}
    assert compare({"y": classes}, {"y": classes}, None).accuracy is None


@pytest.mark.parametrize("labels", [np.array([0, 1, 3]), np.array([0, 1]), np.array([[0], [1], [2]])])
def test_labels_that_fit_no_output_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(DataError, match="labels"):
        compare({"y": np.eye(3)}, {"y": np.eye(3)}, labels)


def verdict(output: OutputComparison, **changes: object) -> Verification:
    settings: dict[str, object] = {
        "samples": 2,
        "data": "random",
        "devices": 10,
        "devices_read_back": 10,
        "modified_files": [],
        "accept_modified": False,
        "tolerance": 0.05,
        "wires": "technology",
        "converters": "technology",
        "complaints": (),
    }
    return Verification.of(Comparison({"y": output}, None), **(settings | changes))  # type: ignore[arg-type]


GOOD = OutputComparison(0.05, 0.999, 1.0)


def test_a_verdict_passes_at_the_tolerance() -> None:
    assert verdict(GOOD).passed
    assert verdict(GOOD, modified_files=["masks/chip.gds"], accept_modified=True).passed
    assert verdict(GOOD, drc=RuleCheck(1, 1, ()), lvs=[]).passed


@pytest.mark.parametrize(
    "changes",
    [
        {"tolerance": 0.0499},
        {"devices_read_back": 9},
        {"devices_read_back": 11},
        {"modified_files": ["masks/chip.gds"]},
        {"devices_read_back": 9, "accept_modified": True},
        {"drc": RuleCheck(1, 1, (Violated("M1.a", 1, ()),))},
        {"lvs": ["row1 and row2 are shorted"]},
    ],
)
def test_a_verdict_does_not_pass(changes: dict[str, object]) -> None:
    assert not verdict(GOOD, **changes).passed


def test_one_bad_output_is_enough() -> None:
    outputs = {"a": GOOD, "b": OutputComparison(0.06, 0.9, 1.0)}
    good = verdict(GOOD)
    assert not Verification.of(
        Comparison(outputs, None),
        samples=good.samples,
        data=good.data,
        devices=10,
        devices_read_back=10,
        modified_files=[],
        accept_modified=False,
        tolerance=0.05,
        wires="technology",
        converters="ideal",
        complaints=[],
    ).passed


def test_what_could_not_be_measured_does_not_pass() -> None:
    unmeasured = Verification.unmeasured(
        complaints=("no mask",),
        devices=0,
        modified_files=["masks/chip.gds"],
        accept_modified=True,
        tolerance=0.05,
        wires="ideal",
        converters="technology",
    )
    assert not unmeasured.passed
    assert unmeasured.to_json()["outputs"] == {}


def test_the_json_is_valid_and_has_accuracy_only_with_labels() -> None:
    found = verdict(OutputComparison(None, None, 0.0)).to_json()
    assert json.loads(json.dumps(found, allow_nan=False))["outputs"]["y"]["relative_error"] is None
    assert "accuracy" not in found
    assert set(found) == {
        "samples",
        "data",
        "outputs",
        "devices",
        "devices_read_back",
        "modified_files",
        "tolerance",
        "wires",
        "converters",
        "complaints",
        "passed",
    }

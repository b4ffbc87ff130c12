"""The verdict on a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pfmc.backend import RuleCheck
from pfmc.check.compare import Comparison, OutputComparison
from pfmc.check.monte_carlo import MonteCarlo


@dataclass(frozen=True)
class Verification:
    """What the emitted files compute, against the original model.

    Attributes:
        samples: how many were run through both models; 0 where nothing could be measured.
        data: where they come from, "file" or "random"; "none" where nothing could be measured.
        outputs: the comparison, output by output.
        accuracy: share of the labels that the "reference" and the "fabricated" model get right; None without labels.
        devices: how many were drawn at the compile.
        devices_read_back: how many were found in the files.
        modified_files: those that are not what the manifest says.
        tolerance: largest relative error that passes.
        wires: "technology", or "ideal": the resistance of the wires is left out.
        converters: "technology", or "ideal": their rounding and clipping is left out.
        complaints: what the reader of the files found that does not belong, one line each.
        drc: what the check of design rules found; None if it was not asked for.
        lvs: where the files' connections differ from what they should be, one line each; None if not asked for.
        monte_carlo: what chips as made compute; None if it was not asked for. It takes no part in the verdict.
        passed: the verdict: every output is within tolerance, every device was read back, and no file was changed, or
            changes were accepted; and what else was asked for found nothing.
    """

    samples: int
    data: str
    outputs: dict[str, OutputComparison]
    accuracy: dict[str, float] | None
    devices: int
    devices_read_back: int
    modified_files: list[str]
    tolerance: float
    wires: Literal["technology", "ideal"]
    converters: Literal["technology", "ideal"]
    complaints: list[str]
    drc: RuleCheck | None
    lvs: list[str] | None
    monte_carlo: MonteCarlo | None
    passed: bool

    @classmethod
    def of(
        cls,
        comparison: Comparison,
        *,
        samples: int,
        data: str,
        devices: int,
        devices_read_back: int,
        modified_files: Sequence[str],
        accept_modified: bool,
        tolerance: float,
        wires: Literal["technology", "ideal"],
        converters: Literal["technology", "ideal"],
        complaints: Sequence[str],
        drc: RuleCheck | None = None,
        lvs: Sequence[str] | None = None,
        monte_carlo: MonteCarlo | None = None,
    ) -> Verification:
        """The verdict on what was measured; see the attributes for the rule."""
        within = [_within(output, tolerance) for output in comparison.outputs.values()]
        sound = (accept_modified or not modified_files) and (drc is None or drc.clean) and not lvs
        return cls(
            samples=samples,
            data=data,
            outputs=comparison.outputs,
            accuracy=comparison.accuracy,
            devices=devices,
            devices_read_back=devices_read_back,
            modified_files=list(modified_files),
            tolerance=tolerance,
            wires=wires,
            converters=converters,
            complaints=list(complaints),
            drc=drc,
            lvs=None if lvs is None else list(lvs),
            monte_carlo=monte_carlo,
            passed=bool(within) and all(within) and devices_read_back == devices and sound,
        )

    @classmethod
    def unmeasured(cls, *, complaints: Sequence[str], **common: Any) -> Verification:
        """The verdict where the files could not be understood; it never passes, for no output was compared."""
        nothing = Comparison(outputs={}, accuracy=None)
        return cls.of(nothing, samples=0, data="none", devices_read_back=0, complaints=complaints, **common)

    def to_json(self) -> dict[str, Any]:
        """As ``verify --json`` prints it: what was not asked for or is not known left out."""
        fields: Mapping[str, Any] = dataclasses.asdict(self)
        return {key: value for key, value in fields.items() if value is not None}


def _within(output: OutputComparison, tolerance: float) -> bool:
    return output.relative_error is not None and output.relative_error <= tolerance

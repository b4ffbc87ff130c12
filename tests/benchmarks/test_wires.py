"""What wire resistance does to the samples: compensated, not compensated, and what ideal wires would give."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import pfmc

SAMPLES = Path(__file__).parent.parent.parent / "samples"


@pytest.mark.parametrize(
    "technology",
    ["sg13g2", "sg13g2/slide", "sg13g2/compact", "sg13g2/rppd", "sg13g2/tapvia", "gf180mcu", "generic"],
)
@pytest.mark.parametrize("sample", ["digits_mlp", "digits_cnn", "language_encoder"])
def test_wires(sample: str, technology: str, tmp_path: Path) -> None:
    source = SAMPLES / sample

    def compiled(name: str, **options: object) -> pfmc.Bundle:
        calibration = source / "calibration.npz"
        folder = tmp_path / name
        return pfmc.compile(
            source / "model.onnx", folder, technology=technology, calibration=calibration, options=options
        )

    def error(bundle: pfmc.Bundle, *, ideal_wires: bool = False) -> float:
        (output,) = bundle.verify(source / "test.npz", ideal_wires=ideal_wires).outputs.values()
        assert output.relative_error is not None
        return output.relative_error

    start = time.perf_counter()
    bundle = compiled("compensated")
    middle = time.perf_counter()
    plain = compiled("plain", **{"scale.compensate": "no"})
    seconds = middle - start, time.perf_counter() - middle
    real, ideal, wrong = error(bundle), error(plain, ideal_wires=True), error(plain)
    print(
        f"{sample:17} {technology:14} real wires {real:7.3%}, ideal {ideal:7.3%} ({real / ideal:5.3f} times), "
        f"not compensated {wrong:7.2%}; compile {seconds[0]:5.1f} s, without compensation {seconds[1]:5.1f} s"
    )
    assert real <= 1.1 * ideal

"""Small networks as both of PyTorch's exporters write them, in every form of quantisers: all is mapped, decisions stay.

Needs the extra ``models``, of which torch is a part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pfmc

exported = pytest.importorskip("exported", reason="torch is not installed", exc_type=ImportError)
pytestmark = pytest.mark.models
SAMPLES = 100


@pytest.mark.parametrize("form", exported.FORMATS)
@pytest.mark.parametrize("dynamo", [False, True], ids=["tracing", "torch.export"])
@pytest.mark.parametrize("name", exported.SMALL)
def test_all_is_mapped_and_decisions_stay(
    name: str, dynamo: bool, form: str, best_converters: Path, tmp_path: Path
) -> None:
    plain, model, rng = tmp_path / "plain.onnx", tmp_path / "m.onnx", np.random.default_rng(9)
    exported.export(name, plain, dynamo=dynamo)
    exported.FORMATS[form](name, plain, model)
    assert exported.MARKS[form] in model.read_bytes()
    paths = {}
    for part in ("calibration", "data"):
        x, labels = exported.examples(name, SAMPLES, rng)
        paths[part] = tmp_path / f"{part}.npz"
        np.savez(paths[part], x=x, labels=labels)
    bundle = pfmc.compile(model, tmp_path / "out", calibration=paths["calibration"])
    parameters, macs = bundle.manifest.parameters, bundle.manifest.macs
    assert parameters.mapped > 0.95 * exported.weights(name)
    assert macs.mapped > 0.95 * (macs.total - exported.SMALL[name].unmapped)
    assert not bundle.manifest.on_host
    if (name, form) == ("attention-of-one-head", "float32"):
        (saving,) = bundle.manifest.savings
        assert saving.how == ("keys' matrix in the queries'", "output's matrix in the values'")
    ideal = bundle.verify(paths["data"], ideal_converters=True)
    assert ideal.passed
    assert ideal.outputs["y"].agreement >= 0.99
    usual = bundle.verify(paths["data"]).outputs["y"].agreement
    best = pfmc.compile(
        model,
        tmp_path / "best",
        technology=best_converters,
        calibration=paths["calibration"],
        options={"provide.slices": 2},
    )
    agreement = best.verify(paths["data"]).outputs["y"].agreement
    print(name, dynamo, form, ideal.outputs["y"].agreement, usual, agreement)
    assert usual >= 0.98  # rounding to 8 bits, and then a converter
    assert agreement >= 0.99

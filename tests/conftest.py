"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from pfmc.technology.loader import load

sys.path.insert(0, str(Path(__file__).parent))  # for builders, under importlib mode

settings.register_profile("pfmc", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("pfmc")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def best_converters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IHP SG13G2 with converters of as many bits as it offers."""
    technology = load("sg13g2")
    most = {f"{side}_bits": getattr(technology.offer, f"{side}_bits_max") for side in ("input", "output")}
    converters = technology.converters.model_copy(update=most)
    lines = [f'{key} = {{ value = {q.value}, unit = "{q.unit}", source = "{q.source}" }}' for key, q in converters]
    path = tmp_path_factory.mktemp("technology") / "best.toml"
    path.write_text("\n".join(['base = "sg13g2"', 'name = "best"', 'title = "best"', "[converters]", *lines]))
    return path

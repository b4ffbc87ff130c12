"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # for builders, under importlib mode

settings.register_profile("pfmc", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("pfmc")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20260101)

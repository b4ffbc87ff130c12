"""Benchmarks are run without the checks of array shapes that all other tests have: users have none either."""

from __future__ import annotations

from jaxtyping import config

config.update("jaxtyping_disable", True)

"""Libraries of file formats that only some exports need."""

from __future__ import annotations

import importlib
from typing import Any

from pfmc.errors import UsageError


def library(name: str) -> Any:
    """The module.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(
            f"this format needs the library {name}", None, f"pip install 'pfmc[glass]', or {name}"
        ) from None

"""What is installed: passes, backends and technologies, found through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pfmc.backend import Backend
from pfmc.errors import UsageError
from pfmc.passmanager import Pass


def _installed(group: str) -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda entry: entry.name)}


def _load(group: str, kind: str, name: str) -> Any:
    found = _installed(group)
    if name not in found:
        raise UsageError(f"no such {kind}", name, f"installed: {', '.join(found) or 'none'}")
    try:
        return found[name].load()
    except (ImportError, AttributeError) as e:
        raise UsageError(f"the {kind} cannot be loaded: {e}", f"{name} ({found[name].value})") from None


def pass_names() -> tuple[str, ...]:
    """Names of the installed passes."""
    return tuple(_installed("pfmc.passes"))


def load_pass(name: str) -> type[Pass[Any, Any]]:
    """A pass by name.

    Raises:
        UsageError: if it is not installed or cannot be imported.
    """
    kind: type[Pass[Any, Any]] = _load("pfmc.passes", "pass", name)
    return kind


def backends() -> tuple[Backend, ...]:
    """The installed backends."""
    return tuple(load_backend(name) for name in _installed("pfmc.backends"))


def load_backend(name: str) -> Backend:
    """A backend by name.

    Raises:
        UsageError: if it is not installed or cannot be imported.
    """
    backend: Backend = _load("pfmc.backends", "backend", name)
    return backend


def backend_for(target: str) -> Backend:
    """The backend for a target.

    Raises:
        UsageError: if there is none.
    """
    found = backends()
    for backend in found:
        if backend.target == target:
            return backend
    raise UsageError("no backend for this target", target, f"targets: {', '.join(sorted({b.target for b in found}))}")

"""Technologies by name or file: found through entry points, read within bounds, refused in one line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, Final, get_args

from pydantic import ValidationError

from pfmc.errors import TechnologyError
from pfmc.technology.schema import Technology

GROUP: Final = "pfmc.technologies"
SIZE_LIMIT: Final = 1_000_000  # bytes; a technology file has a few thousand


def names() -> tuple[str, ...]:
    """Names of the installed technologies, sorted."""
    return tuple(sorted(_installed()))


def describe() -> list[tuple[str, str]]:
    """Name and title of each installed technology."""
    return [(name, load(name).title) for name in names()]


def load(name_or_path: str) -> Technology:
    """A technology by installed name, or from a file whose name ends with ``.toml``.

    Raises:
        TechnologyError: if there is none, or it says something that cannot be.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            with path.open("rb") as file:
                return _parse(file, name_or_path)
        except OSError as e:
            raise TechnologyError(f"cannot be read: {e.strerror}", name_or_path, "check the path") from None
    entry = _installed().get(name_or_path)
    if entry is None:
        raise TechnologyError(
            "no such technology", name_or_path, f"installed: {', '.join(names())}; or give a .toml file"
        )
    package, _, resource = entry.value.partition(":")
    try:
        with (files(package) / resource).open("rb") as file:
            return _parse(file, f"{entry.name} ({entry.value})")
    except (ImportError, OSError) as e:
        raise TechnologyError(
            f"cannot be read: {e}", f"{entry.name} ({entry.value})", "reinstall its package"
        ) from None


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _parse(file: IO[bytes], where: str) -> Technology:
    data = file.read(SIZE_LIMIT + 1)
    if len(data) > SIZE_LIMIT:
        raise TechnologyError(f"is larger than {SIZE_LIMIT} bytes", where, "is it a technology file?")
    try:
        return Technology.model_validate(tomllib.loads(data.decode("utf-8")))
    except UnicodeDecodeError as e:
        raise TechnologyError(f"is not UTF-8 at byte {e.start}", where, "save it as UTF-8 text") from None
    except tomllib.TOMLDecodeError as e:
        raise TechnologyError(f"is not TOML: {e}", where, "mend that line") from None
    except RecursionError:
        raise TechnologyError("is nested too deeply", where, "see the built-in files for the form") from None
    except ValidationError as e:
        raise _one_line(e, where) from None


def _one_line(error: ValidationError, where: str) -> TechnologyError:
    """The first thing that is wrong; misspelt keys first, because a missing key follows from them."""
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    first, others = details[0], len(details) - 1
    location, context = first["loc"], first.get("ctx", {})
    path = ".".join(str(part) for part in (*location, context.get("key")) if part is not None)
    problem, fix = str(context.get("problem", first["msg"])), "see the built-in files for the form"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _keys(location[:-1]), n=1)
        problem, fix = "no such key", f"did you mean {near[0]}?" if near else "remove it"
    elif first["type"] == "missing":
        problem, fix = "missing", "add it"
    more = f" (and {others} more)" if others else ""
    return TechnologyError(f"{path}: {problem}{more}", where, fix)


def _keys(location: Sequence[str | int]) -> list[str]:
    """The keys that a section may have."""
    section: Any = Technology
    for part in location:
        if isinstance(part, str):
            section = section.model_fields[part].annotation
        while not hasattr(section, "model_fields"):
            section = get_args(section)[0]
    return list(section.model_fields)

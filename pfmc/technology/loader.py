"""Technologies by name or file: found through entry points, read within bounds, refused in one line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, Final, get_args

from pydantic import ValidationError

from pfmc.errors import TechnologyError
from pfmc.technology.kinds import KINDS, TECHNOLOGY, AnyTechnology

GROUP: Final = "pfmc.technologies"
SIZE_LIMIT: Final = 1_000_000  # bytes; a technology file has a few thousand


def names() -> tuple[str, ...]:
    """Names of the installed technologies, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def describe() -> list[tuple[str, str]]:
    """Name and title of each installed technology.

    Raises:
        TechnologyError: if one of them cannot be loaded.
    """
    return [(name, load(name).title) for name in names()]


def load(name_or_path: str) -> AnyTechnology:
    """A technology by installed name, or from a file whose name ends with ``.toml``.

    A file that says ``base = "NAME"`` is another cell of an installed technology: it has a name and a title of its own,
    and the sections that it has replace those of its base, which has no base itself.

    Raises:
        TechnologyError: if there is none, or it says something that cannot be.
    """
    where, content = _read(name_or_path)
    base = content.pop("base", None)
    if base is not None:
        if not isinstance(base, str) or base not in names():
            raise TechnologyError("no such technology", f"{where}: base", f"name one of {', '.join(names())}")
        _, base_content = _read(base)
        if "base" in base_content:
            raise TechnologyError(f"{base} has a base itself", f"{where}: base", f"name {base_content['base']}")
        content = {key: section for key, section in base_content.items() if key not in {"name", "title"}} | content
    target = content.get("target")
    if not isinstance(target, str) or target not in KINDS:
        what = "no such target" if "target" in content else "missing key"
        raise TechnologyError(what, f"{where}: target", f"say {' or '.join(KINDS)}")
    try:
        return TECHNOLOGY.validate_python(content)
    except ValidationError as e:
        raise _one_line(e, where, KINDS[target]) from None


def _read(name_or_path: str) -> tuple[str, dict[str, Any]]:
    """Where a technology stands, for errors, and what is written there."""
    if name_or_path.endswith(".toml"):
        try:
            with Path(name_or_path).open("rb") as file:
                return name_or_path, _parse(file, name_or_path)
        except (OSError, ValueError) as e:  # ValueError: a path that no file can have
            raise TechnologyError(getattr(e, "strerror", None) or str(e), name_or_path, "check the path") from None
    values = sorted({entry.value for entry in entry_points(group=GROUP) if entry.name == name_or_path})
    if not values:
        known = f"installed: {', '.join(names())}; or give a .toml file"
        raise TechnologyError("no such technology", name_or_path, known)
    if len(values) > 1:
        raise TechnologyError("several packages install this technology", name_or_path, f"keep one of {values}")
    package, _, resource = values[0].partition(":")
    where = f"{name_or_path} ({values[0]})"
    try:
        with (files(package) / resource).open("rb") as file:
            return where, _parse(file, where)
    except (ImportError, OSError, TypeError) as e:  # TypeError: a module where a package should be
        raise TechnologyError(f"cannot be read: {e}", where, "mend or reinstall its package") from None


def _parse(file: IO[bytes], where: str) -> dict[str, Any]:
    data = file.read(SIZE_LIMIT + 1)  # bounded, whatever the file is
    if len(data) > SIZE_LIMIT:
        raise TechnologyError(f"larger than {SIZE_LIMIT} bytes", where, "is it a technology file?")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise TechnologyError(f"not UTF-8 at byte {e.start}", where, "save it as UTF-8 text") from None
    except (ValueError, RecursionError) as e:  # tomllib's own error, a number of absurd length, nesting
        raise TechnologyError(f"not TOML: {e}", where, "correct that line") from None


def _one_line(error: ValidationError, where: str, kind: type[Any]) -> TechnologyError:
    """The first thing that is wrong; misspelt keys first, because a missing key follows from them."""
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    first, context = details[0], details[0].get("ctx", {})
    location = first["loc"][1:]  # behind the target
    key = ".".join(str(part) for part in (*location, context.get("key")) if part is not None)
    problem, fix = str(context.get("problem", first["msg"])), "correct that entry"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _keys(kind, location[:-1]), n=1)
        problem, fix = "no such key", f"did you mean {near[0]}?" if near else "remove it"
    elif first["type"] == "missing":
        problem, fix = "missing key", "add it"
    more = f", and {len(details) - 1} more to correct" if len(details) > 1 else ""
    return TechnologyError(problem, f"{where}: {key}", fix + more)


def _keys(kind: type[Any], location: Sequence[str | int]) -> list[str]:
    """The keys that a section of a kind of technology may have."""
    section: Any = kind
    for part in location:
        if isinstance(part, str):
            section = section.model_fields[part].annotation
        while not hasattr(section, "model_fields"):
            section = get_args(section)[0]
    return list(section.model_fields)

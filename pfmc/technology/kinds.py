"""The kinds of technology there are, by target."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, TypeAdapter

from pfmc.errors import UsageError
from pfmc.technology.glass import GlassTechnology
from pfmc.technology.schema import Technology

AnyTechnology = Annotated[Technology | GlassTechnology, Field(discriminator="target")]
KINDS: Final[dict[str, type[Technology] | type[GlassTechnology]]] = {"crossbar": Technology, "glass": GlassTechnology}
TECHNOLOGY: Final[TypeAdapter[AnyTechnology]] = TypeAdapter(AnyTechnology)


def crossbars(technology: AnyTechnology, what: str, instead: str = "") -> Technology:
    """The technology, for what only crossbars have; ``instead``: what to do with another.

    Raises:
        UsageError: if it is of another target.
    """
    if not isinstance(technology, Technology):
        where = f"technology {technology.name} of target {technology.target}"
        raise UsageError(f"{what} is for crossbars", where, instead)
    return technology


def glass(technology: AnyTechnology, what: str) -> GlassTechnology:
    """Likewise for what only glass has.

    Raises:
        UsageError: if it is of another target.
    """
    if not isinstance(technology, GlassTechnology):
        raise UsageError(f"{what} is for glass", f"technology {technology.name} of target {technology.target}")
    return technology

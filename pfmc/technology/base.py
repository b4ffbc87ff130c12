"""What all sections of a technology file have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

# Text that reaches file names, reports and terminals: bounded, and no control characters.
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\p{Cc}]+$")]


def wrong(key: str, problem: str) -> PydanticCustomError:
    """The error of a validator, with the key that is to blame, relative to what is validated."""
    return PydanticCustomError("wrong", "{key}: {problem}", {"key": key, "problem": problem})


class Model(BaseModel):
    """Frozen, and an entry that nobody asked for is an error: a misspelt key must not pass in silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

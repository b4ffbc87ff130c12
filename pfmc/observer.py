"""Who watches a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Observer(Protocol):
    """Who watches a job: the command line, or nobody."""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        """A new stage begins; the result is called with how many of ``total`` are done since the last call."""
        ...

    def show(self, text: str) -> None:
        """Text that the user asked for."""
        ...


class Silent:
    """Nobody watches."""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        """See :class:`Observer`."""
        return lambda _done: None

    def show(self, text: str) -> None:
        """See :class:`Observer`."""

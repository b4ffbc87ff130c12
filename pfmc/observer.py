"""Who watches a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Stage(Protocol):
    """Begins a stage of a job."""

    def __call__(self, title: str, total: int | None = None, /) -> Callable[[int], None]:
        """The result is called with how many of ``total`` are done since the last call."""
        ...


class Observer(Protocol):
    """Who watches a job: the command line, or nobody."""

    def stage(self, title: str, total: int | None = None, /) -> Callable[[int], None]:
        """A new stage begins; see :class:`Stage`."""
        ...

    def show(self, text: str) -> None:
        """Text that the user asked for."""
        ...


def silent(_title: str, _total: int | None = None, /) -> Callable[[int], None]:
    """A stage that nobody watches."""
    return lambda _done: None


class Silent:
    """Nobody watches."""

    def stage(self, title: str, total: int | None = None, /) -> Callable[[int], None]:
        """See :class:`Observer`."""
        return silent(title, total)

    def show(self, text: str) -> None:
        """See :class:`Observer`."""

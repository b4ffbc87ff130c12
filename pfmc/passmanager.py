"""What a pass is, and the manager that runs a pipeline of them and holds each to its promises."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

import numpy as np

from pfmc.errors import PassError, UsageError
from pfmc.ir.graph import Graph
from pfmc.ir.text import render as render_graph
from pfmc.layout.glass import AnyLayout, GlassLayout
from pfmc.layout.layout import Layout
from pfmc.netlist.netlist import Netlist, Provision
from pfmc.netlist.netlist import render as render_netlist
from pfmc.observer import Stage, silent
from pfmc.technology.kinds import AnyTechnology

Takes = TypeVar("Takes", Graph, Netlist, Layout, GlassLayout)
Gives = TypeVar("Gives", Graph, Netlist, Layout, GlassLayout)

Activations = Callable[[Sequence[str]], Iterator[dict[str, np.ndarray]]]


@dataclass(frozen=True)
class Context:
    """What a pass may know beside the representation that it is given.

    Attributes:
        technology: who fabricates.
        activations: runs the calibration data through the model and yields, batch by batch, the named values.
        title: names the model by its hash.
        provisions: chooses what contractions of a calibrated and scaled netlist get; the others get what the technology
            says.
        vectors: matrix-vector products per inference of the contractions of a netlist; see
            :func:`pfmc.uses.vectors_per_inference`.
        seed: where a pass needs random numbers, it takes them from a generator with this seed.
        workers: how many processes it may use.
        checkpoint: a folder, made by who needs it, for results that took long: a later run finds them again.
        stage: tells who watches what is being done; see :class:`pfmc.observer.Observer`.
    """

    technology: AnyTechnology
    activations: Activations
    title: str
    provisions: Callable[[Netlist], Mapping[str, Provision]] = lambda _netlist: {}
    vectors: Callable[[Netlist], Mapping[str, Sequence[int]]] = lambda _netlist: {}
    seed: int = 0
    workers: int = 1
    checkpoint: Path = Path("checkpoint")
    stage: Stage = silent


@dataclass(frozen=True)
class Pass(ABC, Generic[Takes, Gives]):
    """A step of the compiler. Its fields are its options; on the command line they are kebab-case.

    ``takes`` and ``gives`` say which representations it stands between; ``after`` names the pass behind which it is put
    when a user adds it to a pipeline.
    """

    name: ClassVar[str]
    takes: ClassVar[type[Any]]
    gives: ClassVar[type[Any]]
    after: ClassVar[str] = ""

    @abstractmethod
    def run(self, source: Takes, context: Context) -> Gives:
        """Make the next representation; the one given is left as it is."""

    def requires(self, source: Takes) -> None:
        """Raise PassError if ``source`` is not what this pass can take."""

    def ensures(self, source: Takes, result: Gives) -> None:
        """Raise PassError if ``result`` is not what this pass promises."""

    def options(self) -> dict[str, Any]:
        """The options by their names on the command line."""
        return {f.name.replace("_", "-"): getattr(self, f.name) for f in dataclasses.fields(self)}


def with_options(kind: type[Pass[Any, Any]], settings: dict[str, str]) -> Pass[Any, Any]:
    """A pass with the options that a user set, each text converted to the field's type.

    Raises:
        UsageError: naming the option, if it is unknown or its value does not fit.
    """
    hints = get_type_hints(kind)
    fields = {f.name.replace("_", "-"): f.name for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for option, text in settings.items():
        if option not in fields:
            known = ", ".join(sorted(fields)) or "it has none"
            raise UsageError("no such option", f"{kind.name}.{option}", f"options of {kind.name}: {known}")
        wanted = hints[fields[option]]
        try:
            values[fields[option]] = _BOOLEANS[text.lower()] if wanted is bool else wanted(text)
        except (ValueError, KeyError):
            kinds = f"one of {', '.join(wanted)}" if issubclass(wanted, StrEnum) else _KINDS[wanted]
            raise UsageError(f"{text!r} is not {kinds}", f"{kind.name}.{option}") from None
    try:
        return kind(**values)
    except ValueError as e:
        raise UsageError(str(e), kind.name) from None


_KINDS = {int: "a whole number", float: "a number", bool: "yes or no", str: "text"}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def render(representation: Graph | Netlist | AnyLayout) -> str:
    """The textual form of any representation."""
    if isinstance(representation, Graph):
        return render_graph(representation)
    if isinstance(representation, Netlist):
        return render_netlist(representation)
    placed = "".join(f"  {p.tile.name} at {p.x},{p.y}\n" for p in representation.tiles)
    return f"layout {representation.width}x{representation.height} {len(representation.tiles)} tiles\n{placed}"


def run_pipeline(
    passes: Sequence[Pass[Any, Any]],
    graph: Graph,
    context: Context,
    *,
    after: Callable[[Pass[Any, Any], Graph | Netlist | AnyLayout], None] = lambda _pass, _result: None,
) -> AnyLayout:
    """Run the passes in order, from Graph to Layout; see :func:`run_passes`.

    Raises:
        PassError: likewise, and where the last pass makes no layout.
    """
    last = run_passes(passes, graph, context, after=after)
    if not isinstance(last, AnyLayout):
        raise PassError(f"the pipeline ends with a {type(last).__name__}, not a Layout", f"pass {passes[-1].name}")
    return last


def run_passes(
    passes: Sequence[Pass[Any, Any]],
    graph: Graph,
    context: Context,
    *,
    after: Callable[[Pass[Any, Any], Graph | Netlist | AnyLayout], None] = lambda _pass, _result: None,
) -> Graph | Netlist | AnyLayout:
    """Run the passes in order, checking each one's pre- and postconditions.

    Args:
        after: called with each pass and what it made, for printing and progress.

    Raises:
        PassError: naming the pass, where representations do not meet or a promise is broken.
    """
    current: Graph | Netlist | AnyLayout = graph
    for step in passes:
        where = f"pass {step.name}"
        if not isinstance(current, step.takes):
            raise PassError(f"it takes a {step.takes.__name__} and was given a {type(current).__name__}", where)
        step.requires(current)
        result = step.run(current, context)
        if not isinstance(result, step.gives):
            raise PassError(f"it promises a {step.gives.__name__} and gave a {type(result).__name__}", where)
        if isinstance(result, Graph | Netlist):
            result.verify()
        step.ensures(current, result)
        current = result
        after(step, current)
    return current

"""The foundry's design rules, as a technology file states them."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from pfmc.technology.base import Model, Text, wrong
from pfmc.units import UNITS

JOINING: Final = ("&", "|", "-", "^", "touching", "clear_of")
SELECTING: Final = ("squares", "bars")
DRAWN: Final = re.compile(r"(\d{1,5})/(\d{1,5})", re.ASCII)


class Step(NamedTuple):
    """An operator, and what stands behind it: a layer, or a number of um2 after ``over``, or nothing."""

    operator: str
    operand: str = ""


def parse_layer(text: str) -> tuple[str, tuple[Step, ...]]:
    """What a rule's layer is made of: the layer to begin with, and what is done to it, in turn.

    The operators: ``&`` and, ``|`` or, ``-`` without, ``^`` either but not both; ``touching`` and ``clear_of`` pick
    whole polygons by whether they meet the other layer; ``squares`` and ``bars`` those that are squares or are not;
    ``over`` those that are larger than a number of um2.

    Raises:
        ValueError: if it is not so written.
    """
    first, *words = text.split() or [""]
    steps: list[Step] = []
    while words:
        operator = words.pop(0)
        if operator in SELECTING:
            steps.append(Step(operator))
        elif operator in (*JOINING, "over") and words:
            steps.append(Step(operator, words.pop(0)))
            if operator == "over" and not 0.0 < float(steps[-1].operand) < 1e6:
                raise ValueError("over takes an area in um2")
        else:
            raise ValueError(f"{operator!r} is no operator, or nothing follows it")
    return first, tuple(steps)


class Amount(Model):
    """The number of a rule, a length, an area or a ratio of areas; its source is the rule's."""

    value: float = Field(gt=0, le=1e5, strict=True)
    unit: Literal["nm", "um", "um2", "%"]

    @property
    def si(self) -> float:
        """The value in SI units."""
        return self.value * UNITS[self.unit][1]


class Rule(Model):
    """A design rule: what its violations are is said in pfmc_backends.crossbar_gdsii.rule_kinds."""

    name: Text  # in the foundry's manual; a rule of several parts stands in several entries
    kind: Literal[
        "width", "max_width", "space", "separation", "distance", "enclosure", "endcap", "overlap", "area", "hole_area",
        "size", "forbidden", "grid", "min_density", "max_density",
    ]  # fmt: skip
    layer: Text
    other: Text | None = None
    value: Amount | None = None
    wide: Amount | None = None  # space: beside metal that is this wide
    run: Amount | None = None  # space: where edges face each other over more than this
    near: Amount | None = None  # endcap: where the enclosure of a side is below this, that of its neighbours counts
    window: Amount | None = None  # density: of every square of this side that lies on the chip; else of the chip
    left_to_die: bool = False  # density: arrays cannot meet it by themselves, so that it is told but not judged
    source: Text

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"separation", "distance", "enclosure", "endcap", "overlap"}
        for key, needs in (
            ("other", self.kind in needed),
            ("value", self.kind not in {"forbidden", "grid"}),
            ("near", self.kind == "endcap"),
        ):
            if (getattr(self, key) is not None) != needs:
                raise wrong(key, f"a rule of kind {self.kind} {'needs it' if needs else 'has none'}")
        if self.kind != "space" and (self.wide or self.run):
            raise wrong("kind", "only space depends on width or run")
        if (self.window or self.left_to_die) and not self.of_density:
            raise wrong("kind", "only density has windows or is left to the die")
        unit = "" if self.value is None or self.value.unit in {"nm", "um"} else self.value.unit
        if self.value is not None and unit != ("um2" if self.kind.endswith("area") else "%" if self.of_density else ""):
            raise wrong("value", f"{self.value.unit} does not measure what a rule of kind {self.kind} limits")
        lengths = [a for a in (self.wide, self.run, self.near, self.window) if a is not None]
        if any(amount.unit not in {"nm", "um"} for amount in lengths):
            raise wrong("value", "only the value of a rule can be anything but a length")
        return self

    @property
    def of_density(self) -> bool:
        """Whether it limits how much of the chip a layer covers; the other rules look at shapes near each other."""
        return self.kind.endswith("density")


class DesignRules(Model):
    """The rules of the process for the layers that the masks have.

    Rules name layers of ``[layers]``, or of ``layers`` here: those by number and datatype, "7/0", or what is made of
    others that stand before it, "GatPoly | PolyRes & pSD", from left to right; see :func:`parse_layer`.
    """

    layers: dict[Text, Text] = Field(default={}, max_length=100)
    rules: tuple[Rule, ...] = Field(default=(), max_length=1000)

    @property
    def local(self) -> tuple[Rule, ...]:
        """The rules about shapes near each other."""
        return tuple(rule for rule in self.rules if not rule.of_density)

    @property
    def densities(self) -> tuple[Rule, ...]:
        """The rules about how much of the chip a layer covers."""
        return tuple(rule for rule in self.rules if rule.of_density)

    def check_names(self, drawn: Container[str]) -> None:
        """See that every layer that rules name is known, when those of the technology are called ``drawn``.

        Raises:
            PydanticCustomError: if one is not.
        """
        known: set[str] = set()
        for i, rule in enumerate(self.rules):
            if rule.of_density and any(" " in self.layers.get(name, name) for name in rule.layer.split(" | ")):
                raise wrong(f"rules.{i}", "a density is of layers of the file, joined by |")
        written = [(f"layers.{name}", name, text) for name, text in self.layers.items()]
        for i, rule in enumerate(self.rules):
            written += [(f"rules.{i}", "", text) for text in (rule.layer, rule.other) if text]
        for key, name, text in written:
            if not DRAWN.fullmatch(text):
                if name in drawn:
                    raise wrong(key, f"{name} is a layer of the file")
                try:
                    first, steps = parse_layer(text)
                except ValueError as e:
                    raise wrong(key, f"{text!r} is no layer: {e}") from None
                for used in (first, *(step.operand for step in steps if step.operator in JOINING)):
                    if used not in known and used not in drawn:
                        raise wrong(key, f"there is no layer {used!r}")
            known.add(name)

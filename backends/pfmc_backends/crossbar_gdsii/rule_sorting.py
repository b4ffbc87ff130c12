"""Design rules by how they are checked: which see what is personalised, and how far they look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pfmc.technology.design_rules import SELECTING, Amount, Rule, parse_layer
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.rule_kinds import Masks

FAR: Final = 2e-6  # m: rules that compare larger distances are checked on the whole tile
NEAR: Final = 0.15e-6  # m: a short distance beside the pitch of strips


class SortedRules:
    """Rules by how they are checked.

    Attributes:
        base: those that no personalised layer takes part in.
        far: those of them that compare distances beyond ``FAR``.
        large: of those, by layer, the ones that concern no polygon within so many database units, and that number.
        pairs: those that are checked on pairs of strips, in groups with the largest distance that each compares: rules
            that compare short distances only and look at other layers see fewer different pairs by themselves.
        areas: layer and least area, database units, of personalised layers each of whose rectangles shows by itself.
        whole: others with a personalised layer, checked on the whole tile.
        reach: the largest distance that ``pairs`` compare.
        margin: the largest that any compare but those in ``far``.
    """

    def __init__(self, technology: Technology, masks: Masks) -> None:
        personal = {layer.key for layer in technology.personalisation_layers}
        self.base: list[Rule] = []
        self.far: list[Rule] = []
        self.large: dict[tuple[int, int], list[tuple[int, Rule]]] = {}
        pairs: list[Rule] = []
        self.areas: list[tuple[tuple[int, int], int]] = []
        self.whole: list[Rule] = []
        self.layers = sorted({key for rule in technology.design_rules.local for key in masks.sources(rule)})
        for rule in technology.design_rules.local:
            lengths = [a for a in (rule.value, rule.wide, rule.near) if a is not None and a.unit != "um2"]
            runs = [] if rule.run is None else [rule.run]
            if not masks.sources(rule) & personal:
                if all(amount.si <= FAR for amount in lengths + runs):
                    self.base.append(rule)
                elif (needs := rule.run or rule.value) and self._of_large(rule, masks):
                    self.large.setdefault(min(masks.sources(rule)), []).append((masks.length(needs), rule))
                else:
                    self.far.append(rule)
            elif rule.kind == "area" and self._of_one_layer(rule, masks):
                assert rule.value is not None
                self.areas.append((min(masks.sources(rule)), masks.area(rule.value)))
            elif rule.kind in {"area", "hole_area"} or any(a.si > FAR for a in lengths):
                self.whole.append(rule)
            elif rule.kind != "grid":
                pairs.append(rule)
        self.reach = self._largest(pairs, masks)
        self.margin = self._largest([*self.base, *pairs, *self.whole], masks)
        self.pairs = [self._cut_short(group, masks) for group in self._grouped(pairs, masks) if group]

    def _grouped(self, pairs: Sequence[Rule], masks: Masks) -> tuple[list[Rule], list[Rule]]:
        """Rules that compare long distances, with those on the same layers, and the others."""
        long = [rule for rule in pairs if self._largest([rule], masks) > NEAR / masks.grid.database_unit.si]
        layers = frozenset[tuple[int, int]]().union(*(masks.sources(rule) for rule in long))
        with_long = [rule for rule in pairs if rule in long or masks.sources(rule) <= layers]
        return with_long, [rule for rule in pairs if rule not in with_long]

    def _cut_short(self, rules: list[Rule], masks: Masks) -> tuple[list[Rule], int]:
        """Rules and their reach; where gaps shrink a run is shorter too, but not below reach."""
        reach = self._largest(rules, masks)
        run = Amount(value=max(reach, 1) * masks.grid.database_unit.si * 1e9, unit="nm")
        cut = [r if r.run is None or r.run.si <= run.si else r.model_copy(update={"run": run}) for r in rules]
        return cut, reach

    @staticmethod
    def _largest(rules: Sequence[Rule], masks: Masks) -> int:
        """The largest distance that rules compare; database units, on the manufacturing grid."""
        amounts = [a for rule in rules for a in (rule.value, rule.wide, rule.near) if a is not None and a.unit != "um2"]
        step = masks.grid.step
        return -(-max((masks.length(amount) for amount in amounts), default=0) // step) * step

    @classmethod
    def _of_large(cls, rule: Rule, masks: Masks) -> bool:
        """Whether edges of a certain length must face each other on one layer, or be so far apart in one polygon."""
        return (rule.kind == "max_width" or rule.run is not None) and cls._of_one_layer(rule, masks)

    @staticmethod
    def _of_one_layer(rule: Rule, masks: Masks) -> bool:
        """Whether the rule's layer is some of the polygons of one layer of the file."""
        text: str | None = rule.layer
        while text is not None:
            first, steps = parse_layer(text)
            if any(step.operator not in (*SELECTING, "over") for step in steps):
                return False
            text = masks.made(first)
        return True

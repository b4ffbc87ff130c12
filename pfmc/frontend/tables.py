"""Lookups in constant tables as contractions: one row of the table is driven, and the columns give what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper

from pfmc.errors import UsageError
from pfmc.frontend.building import Kept, Place
from pfmc.frontend.constants import FLOATS
from pfmc.frontend.contractions import contract
from pfmc.frontend.selection import fits_any, nearest


@dataclass
class Tables:
    """Which lookups become products of one-hot rows and the table; the others stay on the host.

    Attributes:
        patterns: of names of Gather nodes; see :class:`pfmc.frontend.selection.Selection`.
        lookups: names of all nodes that look up in a constant table, as far as the model has been rewritten.
    """

    patterns: Sequence[str]
    lookups: list[str] = field(default_factory=list)

    def rule(self, place: Place) -> None:
        """Rewrite a Gather."""
        table, index = place.input(0), place.input(1)
        if table not in place.constants or index in place.constants or place.constants.dtype(table) not in FLOATS:
            return
        self.lookups.append(place.name)
        if not fits_any(place.name, self.patterns):
            return
        shape, extents = place.constants.shape(table), place.shape(index)
        if extents is None:
            raise Kept("how many axes its indices have is not known")
        axis = int(place.attributes.get("axis", 0)) % len(shape)
        index = place.add("Cast", [index], to=TensorProto.INT64)  # ONNX Runtime has no OneHot for every type
        depth, values = np.array(shape[axis]), np.array([0, 1], np.float32)
        row = place.add("OneHot", [index, place.constant("depth", depth), place.constant("values", values)])
        place.shapes[row] = (*extents, shape[axis])
        dtype = place.constants.dtype(table)
        if dtype != "float32":
            row = place.add("Cast", [row], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
            place.shapes[row] = (*extents, shape[axis])
        looked_up = [f"index{i}" for i in range(len(extents))]
        axes = [f"axis{i}" for i in range(len(shape))]
        ys = (*axes[:axis], *looked_up, *axes[axis + 1 :])
        contract(place, row, (*looked_up, axes[axis]), table, tuple(axes), ys)

    def check(self, where: str) -> None:
        """Every pattern fits a lookup of the model that has been rewritten.

        Raises:
            UsageError: naming the pattern, and the lookups with the nearest names.
        """
        for pattern in self.patterns:
            if not any(fits_any(name, [pattern]) for name in self.lookups):
                near = ", ".join(nearest(pattern, self.lookups))
                hint = f"the nearest names: {near}" if near else "it has no lookup in a constant table"
                raise UsageError(f"no lookup in a constant table has a name like {pattern}", f"{where}: --tables", hint)

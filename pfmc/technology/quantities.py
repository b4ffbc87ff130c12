"""Numbers of a technology file: value, unit and source, with the dimension and range that each kind may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from pfmc.technology.base import Model, Text, wrong
from pfmc.units import UNITS


class Quantity(Model):
    """One number of a technology: value, unit, and who says so (a document, or "assumption: …")."""

    value: float = Field(strict=True)
    unit: str
    source: Text

    @property
    def si(self) -> float:
        """The value in SI units."""
        return self.value * UNITS[self.unit][1]


@dataclass(frozen=True)
class Measures:
    """Validator of a quantity's dimension and range (in SI units)."""

    dimension: str
    low: float = 0.0
    high: float = float("inf")
    low_is_allowed: bool = False
    whole: bool = False

    def __call__(self, quantity: Quantity) -> Quantity:
        """Return the quantity, or raise what is wrong with it."""
        units = {name: factor for name, (dimension, factor) in UNITS.items() if dimension == self.dimension}
        if quantity.unit not in units:
            raise wrong("unit", f"{quantity.unit!r} does not measure a {self.dimension}, use {' or '.join(units)}")
        if self.whole and not quantity.value.is_integer():
            raise wrong("value", f"{quantity.value} is not a whole number")
        above = quantity.si >= self.low if self.low_is_allowed else quantity.si > self.low
        if not (above and quantity.si <= self.high):
            least = "at least" if self.low_is_allowed else "more than"
            base = next((name for name, factor in units.items() if factor == 1.0), quantity.unit)
            limits = f"{least} {self.low / units[base]:g} and at most {self.high / units[base]:g} {base}"
            raise wrong("value", f"{quantity.value} {quantity.unit} is out of range, {limits}")
        return quantity


Length = Annotated[Quantity, AfterValidator(Measures("length", 0.0, 0.1))]
Offset = Annotated[Quantity, AfterValidator(Measures("length", -1e-3, 1e-3))]
SheetResistance = Annotated[Quantity, AfterValidator(Measures("sheet resistance", 0.0, 1e7))]
ZeroSheetResistance = Annotated[Quantity, AfterValidator(Measures("sheet resistance", 0.0, 1e7, True))]
Resistance = Annotated[Quantity, AfterValidator(Measures("resistance", 0.0, 1e9, True))]
WidthResistance = Annotated[Quantity, AfterValidator(Measures("resistance times width", 0.0, 1.0, True))]
Voltage = Annotated[Quantity, AfterValidator(Measures("voltage", 0.0, 100.0))]
Current = Annotated[Quantity, AfterValidator(Measures("current", 0.0, 1e3))]
CurrentPerWidth = Annotated[Quantity, AfterValidator(Measures("current per width", 0.0, 1e9))]
Energy = Annotated[Quantity, AfterValidator(Measures("energy", 0.0, 1.0, True))]
Power = Annotated[Quantity, AfterValidator(Measures("power", 0.0, 1e3, True))]
Time = Annotated[Quantity, AfterValidator(Measures("time", 0.0, 1e3))]
Frequency = Annotated[Quantity, AfterValidator(Measures("frequency", 0.0, 1e15))]
Area = Annotated[Quantity, AfterValidator(Measures("area", 0.0, 1.0, True))]
Bits = Annotated[Quantity, AfterValidator(Measures("bits", 0.0, 24.0, whole=True))]
Ratio = Annotated[Quantity, AfterValidator(Measures("ratio", 0.0, 0.3, True))]
Slope = Annotated[Quantity, AfterValidator(Measures("ratio per length", 0.0, 1e3, True))]
AreaLaw = Annotated[Quantity, AfterValidator(Measures("ratio times length", 0.0, 1e-5, True))]
EdgeLaw = Annotated[Quantity, AfterValidator(Measures("length to the power of 1.5", 0.0, 1e-6, True))]
Spread = Annotated[Quantity, AfterValidator(Measures("length", 0.0, 1e-6, True))]
Steps = Annotated[Quantity, AfterValidator(Measures("converter steps", 0.0, 1e3, True))]
Temperature = Annotated[Quantity, AfterValidator(Measures("temperature", -273.15, 1e3))]
PerKelvin = Annotated[Quantity, AfterValidator(Measures("temperature coefficient", -0.01, 0.01))]
PerSquareKelvin = Annotated[Quantity, AfterValidator(Measures("quadratic temperature coefficient", -1e-4, 1e-4))]
Count = Annotated[Quantity, AfterValidator(Measures("count", 0.0, 4096.0, whole=True))]
Speed = Annotated[Quantity, AfterValidator(Measures("speed", 0.0, 100.0))]
Index = Annotated[Quantity, AfterValidator(Measures("count", 1.0, 5.0))]
Responsivity = Annotated[Quantity, AfterValidator(Measures("responsivity", 0.0, 10.0))]
CurrentNoise = Annotated[Quantity, AfterValidator(Measures("current per root of bandwidth", 0.0, 1e-6, True))]
Angle = Annotated[Quantity, AfterValidator(Measures("angle", 0.0, 0.8, True))]
LengthLoss = Annotated[Quantity, AfterValidator(Measures("loss per length", 0.0, 1e5, True))]
Growth = Annotated[Quantity, AfterValidator(Measures("length per length", 0.0, 0.1, True))]
Levels = Annotated[Quantity, AfterValidator(Measures("count", 1.0, 256.0, whole=True))]
Share = Annotated[Quantity, AfterValidator(Measures("ratio", 0.0, 1.0))]

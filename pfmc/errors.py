"""What a user is told when something cannot be done: one line, what, where, and what to do about it."""

from __future__ import annotations


def printable(text: str, limit: int = 200) -> str:
    """Text that came from a model or a file, made safe for one line: no control characters, bounded length."""
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


class PfmcError(Exception):
    """Base of every expected failure.

    Args:
        what: what is wrong.
        where: the node, tile, file or key that it is about.
        fix: what the user can do.
    """

    def __init__(self, what: str, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(", ".join(printable(part, 400) for part in (what, where, fix) if part))


class ImportModelError(PfmcError):
    """The ONNX model cannot be read, is broken, or holds nothing that could be mapped."""


class DataError(PfmcError):
    """A calibration or test data file does not fit the model."""


class TechnologyError(PfmcError):
    """A technology file is missing, misspelt or out of range."""


class PassError(PfmcError):
    """A pass was given something that it cannot take, or gave something that breaks its own promise."""


class CapacityError(PfmcError):
    """The network needs more than the technology offers."""


class ArtifactError(PfmcError):
    """A file of a bundle cannot be written, is missing, or cannot be understood."""


class VerifyError(PfmcError):
    """The emitted files cannot be measured."""


class UsageError(PfmcError):
    """An option or an argument is wrong."""

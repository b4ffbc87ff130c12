"""How loops are compiled. Only modules that hold such loops import this one, for Numba takes its time to import."""

from __future__ import annotations

from numba import njit


def compiled(function):  # type: ignore[no-untyped-def]
    """The function in machine code, which is kept on disk where Numba finds a folder that it may write.

    Numba tells by the text of a function's own file whether what it has on disk is still valid: a function may call
    only functions of its own file.
    """
    fast = {"contract", "reassoc"}
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=fast)(function)
    except RuntimeError:  # Numba finds no folder that it may write
        return njit(nogil=True, error_model="numpy", fastmath=fast)(function)

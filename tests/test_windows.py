"""Windows of a convolution: some of them are those of all."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pfmc.ir.windows import Windows

small = st.integers(0, 2)


@given(
    axes=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    begin=small,
    end=small,
    data=st.data(),
)
def test_some_windows_are_those_of_all(
    axes: int, kernel: int, stride: int, dilation: int, begin: int, end: int, data: st.DataObject
) -> None:
    windows = Windows((kernel,) * axes, (stride,) * axes, (dilation,) * axes, (begin,) * axes, (end,) * axes)
    shape = (2, 3, *range(5, 5 + axes))
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    every = windows(x).reshape(-1, 3 * kernel**axes)
    assert windows.count(x) == len(every)
    chosen = np.array(data.draw(st.lists(st.integers(0, len(every) - 1), max_size=9)), dtype=np.int64)
    np.testing.assert_array_equal(windows.some(x, chosen), every[chosen])

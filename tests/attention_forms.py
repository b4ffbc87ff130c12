"""Attention as exporters write it, each a model of inputs, constants and nodes of ONNX's textual form."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

WIDTH, HEADS, SIZE, TOKENS, PAST = 16, 4, 4, 5, 3  # of x, of heads, and of sequences


@dataclass(frozen=True)
class Form:
    """Nodes that make y of x; constants named w… are drawn, others given; inputs beside x by their types."""

    nodes: str
    weights: dict[str, tuple[int, ...]]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: str = ""
    opset: int = 18

    def model(self, rng: np.random.Generator) -> onnx.ModelProto:
        inputs = ", ".join(["float[N, T, 16] x", *(f"{kind} {name}" for name, kind in self.inputs.items())])
        text = (
            f'<ir_version: 10, opset_import: ["": {self.opset}, "com.microsoft": 1]>\n'
            f"attending ({inputs}) => (float[N, T, 16] y{self.outputs}) {{ {self.nodes} }}"
        )
        made = onnx.parser.parse_model(text)
        drawn = {name: rng.standard_normal(shape) * shape[0] ** -0.5 for name, shape in self.weights.items()}
        arrays = {name: value.astype(np.float32) for name, value in drawn.items()} | self.constants
        made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
        return made

    def saved(self, folder: Path, rng: np.random.Generator) -> Path:
        path = folder / "attention.onnx"
        onnx.save(self.model(rng), path)
        return path

    def data(self, rng: np.random.Generator, samples: int = 4) -> dict[str, np.ndarray]:
        found = {"x": rng.standard_normal((samples, TOKENS, WIDTH)).astype(np.float32)}
        for name, kind in self.inputs.items():
            extents = {"N": samples, "T": TOKENS, "P": PAST, "S": PAST + TOKENS}
            shape = [extents.get(e.strip()) or int(e) for e in kind.partition("[")[2].rstrip("]").split(",")]
            if kind.startswith("float"):
                found[name] = rng.standard_normal(shape).astype(np.float32)
            elif name == "mask":
                found[name] = (np.arange(shape[-1]) < rng.integers(2, shape[-1] + 1, (samples, 1))).astype(
                    np.int64 if kind.startswith("int64") else np.int32
                )
            else:
                found[name] = np.full(shape, TOKENS - 1, np.int32)
        return found


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


QKVO = dict.fromkeys(("wq", "wk", "wv", "wo"), (WIDTH, WIDTH))
BIASES = {"wbq": (WIDTH,), "wbv": (WIDTH,)}
SPLIT = {"split": ints(0, 0, HEADS, SIZE), "joined": ints(0, 0, WIDTH)}

TORCHSCRIPT = Form(
    """
    q = MatMul (x, wq)   q1 = Add (wbq, q)   k = MatMul (x, wk)   v = MatMul (x, wv)   v1 = Add (wbv, v)
    k2 = Reshape (k, split)   k3 = Transpose <perm = [0, 2, 3, 1]> (k2)
    v2 = Reshape (v1, split)   v3 = Transpose <perm = [0, 2, 1, 3]> (v2)
    q2 = Reshape (q1, split)   q3 = Transpose <perm = [0, 2, 1, 3]> (q2)
    s = MatMul (q3, k3)   scaled = Div (s, two)
    kept = Unsqueeze (mask, axes)   number = Cast <to = 1> (kept)   left = Sub (one, number)   low = Mul (left, least)
    masked = Add (scaled, low)   p = Softmax <axis = -1> (masked)
    m = MatMul (p, v3)   m1 = Transpose <perm = [0, 2, 1, 3]> (m)   m2 = Reshape (m1, joined)   y = MatMul (m2, wo)
    """,
    QKVO | BIASES,
    SPLIT | {"two": number(2), "one": number(1), "least": number(-1e9), "axes": ints(1, 2)},
    {"mask": "int64[N, T]"},
)
# torch.export decomposes scaled_dot_product_attention: the scale on both sides, Kᵀ in three dimensions, NaN guarded.
DYNAMO = Form(
    """
    q = MatMul (x, wq)   q1 = Add (q, wbq)   k = MatMul (x, wk)   v = MatMul (x, wv)
    q2 = Reshape (q1, split)   q3 = Transpose <perm = [0, 2, 1, 3]> (q2)
    k2 = Reshape (k, split)   k3 = Transpose <perm = [0, 2, 1, 3]> (k2)
    v2 = Reshape (v, split)   v3 = Transpose <perm = [0, 2, 1, 3]> (v2)
    k4 = Reshape (k3, flat)   k5 = Transpose <perm = [0, 2, 1]> (k4)
    k_shape = Shape (k3)   ends = Slice (k_shape, zero, two)   last = Slice (k_shape, three, four)
    middle = Slice (k_shape, two, three)   shape = Concat <axis = 0> (ends, last, middle)   k6 = Reshape (k5, shape)
    q4 = Mul (q3, root)   k7 = Mul (k6, root)   s = MatMul (q4, k7)
    p = Softmax <axis = -1> (s)   odd = IsNaN (p)   p1 = Where (odd, nothing, p)
    m = MatMul (p1, v3)   m1 = Transpose <perm = [0, 2, 1, 3]> (m)   m2 = Reshape (m1, joined)   y = MatMul (m2, wo)
    """,
    QKVO | BIASES,
    SPLIT
    | {"flat": ints(-1, TOKENS, SIZE), "root": number(0.5**0.5), "nothing": number(0)}
    | {"zero": ints(0), "two": ints(2), "three": ints(3), "four": ints(4)},
)
# tf2onnx: dense layers are a product of matrices between two changes of shape, or an Einsum with a constant.
TENSORFLOW = Form(
    """
    q2 = Einsum <equation = "abc,cde->abde"> (x, wq)   q3 = Mul (q2, half)
    k2 = Einsum <equation = "abc,cde->abde"> (x, wk)
    v2 = Einsum <equation = "abc,cde->abde"> (x, wv)
    s = Einsum <equation = "aecd,abcd->acbe"> (k2, q3)   p = Softmax <axis = -1> (s)
    m = Einsum <equation = "acbe,aecd->abcd"> (p, v2)   y = Einsum <equation = "abcd,cde->abe"> (m, wo)
    """,
    dict.fromkeys(("wq", "wk", "wv"), (WIDTH, HEADS, SIZE)) | {"wo": (HEADS, SIZE, WIDTH)},
    {"half": number(0.5)},
)
# Hugging Face optimum: one projection that is split (GPT-2), a causal mask as a constant, keys and values appended.
OPTIMUM = Form(
    """
    rows = Reshape (x, flat)   qkv = Gemm (rows, wqkv, wb)   qkv1 = Reshape (qkv, wide)
    q, k, v = Split <axis = 2, num_outputs = 3> (qkv1)
    q2 = Reshape (q, split)   q3 = Transpose <perm = [0, 2, 1, 3]> (q2)
    k2 = Reshape (k, split)   k3 = Transpose <perm = [0, 2, 1, 3]> (k2)   key = Concat <axis = -2> (past_key, k3)
    v2 = Reshape (v, split)   v3 = Transpose <perm = [0, 2, 1, 3]> (v2)   value = Concat <axis = -2> (past_value, v3)
    kt = Transpose <perm = [0, 1, 3, 2]> (key)   s = MatMul (q3, kt)   scaled = Div (s, two)
    seen = Slice (triangle, start, end, axis)   masked = Where (seen, scaled, least)   p = Softmax <axis = -1> (masked)
    m = MatMul (p, value)   m1 = Transpose <perm = [0, 2, 1, 3]> (m)   m2 = Reshape (m1, flat)   o = Gemm (m2, wo, wbo)
    y = Reshape (o, back)
    """,
    {"wqkv": (WIDTH, 3 * WIDTH), "wb": (3 * WIDTH,), "wo": (WIDTH, WIDTH), "wbo": (WIDTH,)},
    {
        "flat": ints(-1, WIDTH),
        "wide": ints(-1, TOKENS, 3 * WIDTH),
        "split": ints(0, 0, HEADS, SIZE),
        "back": ints(-1, TOKENS, WIDTH),
        "two": number(2),
        "least": number(-3e38),
        "triangle": np.tri(PAST + TOKENS, dtype=bool)[None, None],
        "start": ints(PAST),
        "end": ints(PAST + TOKENS),
        "axis": ints(2),
    },
    {"past_key": "float[N, 4, P, 4]", "past_value": "float[N, 4, P, 4]"},
    ", float[N, 4, S, 4] key, float[N, 4, S, 4] value",
)
# Two heads of keys and values for four of queries, queries and keys rotated, keys repeated.
ROTARY = Form(
    """
    q = MatMul (x, wq)   k = MatMul (x, wk)   v = MatMul (x, wv)
    q2 = Reshape (q, split)   q3 = Transpose <perm = [0, 2, 1, 3]> (q2)
    k2 = Reshape (k, fewer)   k3 = Transpose <perm = [0, 2, 1, 3]> (k2)
    v2 = Reshape (v, fewer)   v3 = Transpose <perm = [0, 2, 1, 3]> (v2)
    qa = Slice (q3, zero, half, last)   qb = Slice (q3, half, whole, last)   qn = Neg (qb)
    qr = Concat <axis = -1> (qn, qa)   qc = Mul (q3, cosine)   qs = Mul (qr, sine)   q4 = Add (qc, qs)
    ka = Slice (k3, zero, half, last)   kb = Slice (k3, half, whole, last)   kn = Neg (kb)
    kr = Concat <axis = -1> (kn, ka)   kc = Mul (k3, cosine)   ks = Mul (kr, sine)   k4 = Add (kc, ks)
    k5 = Unsqueeze (k4, half)   k6 = Expand (k5, repeated)   k7 = Reshape (k6, again)
    v5 = Unsqueeze (v3, half)   v6 = Expand (v5, repeated)   v7 = Reshape (v6, again)
    kt = Transpose <perm = [0, 1, 3, 2]> (k7)   s = MatMul (q4, kt)   scaled = Mul (s, scale)
    p = Softmax <axis = -1> (scaled)   m = MatMul (p, v7)   m1 = Transpose <perm = [0, 2, 1, 3]> (m)
    m2 = Reshape (m1, joined)   y = MatMul (m2, wo)
    """,
    {"wq": (WIDTH, WIDTH), "wk": (WIDTH, 8), "wv": (WIDTH, 8), "wo": (WIDTH, WIDTH)},
    SPLIT
    | {"fewer": ints(0, 0, 2, SIZE), "zero": ints(0), "half": ints(2), "whole": ints(4), "last": ints(-1)}
    | {"repeated": ints(1, 1, 2, 1, 1), "again": ints(0, HEADS, TOKENS, SIZE), "scale": number(0.5)}
    | {
        name: f(np.arange(TOKENS)[:, None] * [1, 0.1, 1, 0.1]).astype(np.float32)
        for name, f in (("cosine", np.cos), ("sine", np.sin))
    },
)
STANDARD = Form(
    """
    q = MatMul (x, wq)   k = MatMul (x, wk)   v = MatMul (x, wv)
    m = Attention <q_num_heads = 4, kv_num_heads = 2, is_causal = 1> (q, k, v)   y = MatMul (m, wo)
    """,
    {"wq": (WIDTH, WIDTH), "wk": (WIDTH, 8), "wv": (WIDTH, 8), "wo": (WIDTH, WIDTH)},
    opset=23,
)
MICROSOFT = Form(
    """
    m, present = com.microsoft.Attention <num_heads = 4, unidirectional = 1> (x, wqkv, wb, mask, past)
    y = MatMul (m, wo)
    """,
    {"wqkv": (WIDTH, 3 * WIDTH), "wb": (3 * WIDTH,), "wo": (WIDTH, WIDTH)},
    inputs={"mask": "int32[N, S]", "past": "float[2, N, 4, P, 4]"},
    outputs=", float[2, N, 4, S, 4] present",
)
# onnxruntime.quantization, dynamic: x is made of 8 bits when it is known.
QUANTISED = Form(
    """
    xq, xs, xz = DynamicQuantizeLinear (x)
    m, present = com.microsoft.QAttention <num_heads = 4> (xq, wqkv, wb, xs, scale, mask, xz, zero, past)
    y = MatMul (m, wo)
    """,
    {"wb": (3 * WIDTH,), "wo": (WIDTH, WIDTH)},
    {
        "wqkv": (np.arange(3 * WIDTH**2) * 89 % 251 - 125).reshape(WIDTH, -1).astype(np.int8),
        "scale": (1 + np.arange(3 * WIDTH) % 3).astype(np.float32) / 500,
        "zero": np.zeros(3 * WIDTH, np.int8),
    },
    {"mask": "int32[N, S]", "past": "float[2, N, 4, P, 4]"},
    ", float[2, N, 4, S, 4] present",
)
MULTI_HEAD = Form(
    """
    q = MatMul (x, wq)   k = MatMul (x, wk)   v = MatMul (x, wv)
    m = com.microsoft.MultiHeadAttention <num_heads = 4> (q, k, v)   y = MatMul (m, wo)
    """,
    QKVO,
)
GROUPED = Form(
    """
    qkv = MatMul (x, wqkv)
    m, key, value = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1, do_rotary = 0>
        (qkv, , , , , lengths, total)
    y = MatMul (m, wo)
    """,
    {"wqkv": (WIDTH, 2 * WIDTH), "wo": (WIDTH, WIDTH)},
    {"total": np.array(TOKENS, np.int32)},
    {"lengths": "int32[N]"},
)
FORMS = {
    "torchscript": TORCHSCRIPT,
    "dynamo": DYNAMO,
    "tensorflow": TENSORFLOW,
    "optimum": OPTIMUM,
    "rotary": ROTARY,
    "standard": STANDARD,
    "microsoft": MICROSOFT,
    "quantised": QUANTISED,
    "multi-head": MULTI_HEAD,
    "grouped": GROUPED,
}

"""Constant folding by ONNX Runtime, as a program of its own: a model that kills or hangs it kills or hangs only this.

    python folding.py MODEL.onnx FOLDED.onnx BYTES

At the basic level ONNX Runtime folds constants and fuses BatchNormalization into Conv, keeps to the model's opset and
adds no operators of its own; weights go to a file beside the folded model, so memory stays small. It is run by its path
and imports nothing of pfmc, so that it starts quickly. What goes wrong is printed on stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime as ort

WEIGHTS_SUFFIX = ".weights"
SMALLEST_EXTERNAL_BYTES = "1024"  # smaller tensors stay in the model, where shape inference can see them


def fold(model: str, folded: str) -> None:
    """Write the folded model and its weights.

    Raises:
        Exception: whatever ONNX Runtime raises.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = folded
    for key, value in (
        ("session.optimized_model_external_initializers_file_name", Path(folded).name + WEIGHTS_SUFFIX),
        ("session.optimized_model_external_initializers_min_size_in_bytes", SMALLEST_EXTERNAL_BYTES),
        ("session.disable_prepacking", "1"),
    ):
        options.add_session_config_entry(key, value)
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def limit_memory(size: int) -> None:
    """Let no more than ``size`` bytes of address space be used, where the system can do that."""
    if sys.platform == "linux":
        import resource  # noqa: PLC0415  POSIX only

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    limit_memory(int(sys.argv[3]))
    try:
        fold(sys.argv[1], sys.argv[2])
    except Exception as e:  # whatever it is, the parent tells the user
        print(e)  # noqa: T201
        sys.exit(1)

"""pfmc: a compiler from trained ONNX networks to fixed physical layouts."""

"""From ONNX to Graph: the only place that reads a model."""

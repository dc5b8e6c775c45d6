"""The served ONNX file."""

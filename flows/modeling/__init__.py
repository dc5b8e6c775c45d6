"""Candidates, search, calibration, ONNX export; clustering, similarity."""

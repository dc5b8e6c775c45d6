"""registry: stages, evidence, the served model format and the `greenroom` command line."""

import os

# ONNX Runtime's wheels send usage data to their makers, and keep a device's id under ~/.cache, unless this is
# set before they are loaded. Set it to 0 to allow that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

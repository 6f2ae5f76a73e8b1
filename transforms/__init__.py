"""Data processing: for each step a pure function on plain values and a thin PTransform or DoFn that calls it."""

import sys

# ``import openvino`` reports itself to its maker's server, from a forked copy of this process. Without this module, an
# optional one, OpenVINO reports nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

"""Which device an encoder computes on, and what its graph there was measured to give."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cliploom.schemas.digests import digest_of

GRAPHS_REVISION = 1
"""Increase it when the same model gets other ONNX graphs than before."""

Device = Literal["cpu", "auto", "cuda"]
OnDeviceLoss = Literal["cpu", "fail"]

ACCELERATOR = r"^type:[a-z0-9-]+(;count:[1-9][0-9]*)?(;[a-z0-9:._-]+)*$"
DEFAULT_ACCELERATOR = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
"""What is asked of a runner for ``device: cuda`` where its target names no accelerator; Beam's syntax."""


@dataclass(frozen=True)
class DeviceJob:
    """How workers compute a feature on a device other than the processor.

    Attributes:
        required: a worker without the device fails; else it computes on the processor.
        graphs: folder of the ONNX graphs, relative to the store.
        on_loss: what to do when the device fails in the middle: compute on the processor, or fail.
    """

    required: bool
    graphs: str
    on_loss: OnDeviceLoss = "cpu"


@dataclass(frozen=True)
class GraphsCard:
    """Facts of a folder of ONNX graphs; written last, so that a folder with a card is complete.

    Attributes:
        model: digest of the model that they were made from.
        graphs: name of each file, ``model.onnx`` say -> items that it computes together, 0 for any number.
        agreement: smallest cosine by output between ONNX Runtime and OpenVINO on this machine's processor.
        runtime: that was measured, with its version.
    """

    model: str
    graphs: dict[str, int]
    agreement: dict[str, float] = field(default_factory=dict)
    runtime: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> GraphsCard:
        """Read back what ``to_dict`` gave."""
        return cls(**value)


def graphs_digest(model: str) -> str:
    """Return the name of the folder of a model's graphs."""
    return digest_of({"onnx": model, "revision": GRAPHS_REVISION})

"""What the rivals share: the model, and one frame a second as one writes it by hand with PyAV.

Runs with the interpreter of the rivals' environment and imports nothing of cliploom, but for ``Fused``: that is
cliploom's own decoder and encoder, so that only the frameworks around them differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import av
import numpy as np
import openvino as ov
from numpy.typing import NDArray

SIZE, SHORT_SIDE = 224, 256


class Lite0:
    """EfficientNet-Lite0 in f32, one picture at a time on one thread: ``pooled`` float32 [1280]."""

    def __init__(self, model: str) -> None:
        settings: dict[str, Any] = {
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": 1,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._model = ov.Core().compile_model(f"{model}/model.xml", "CPU", settings)

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Of one picture."""
        return np.array(self._model(picture[np.newaxis])["pooled"][0])


def crop(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of a picture."""
    top, left = (picture.shape[0] - SIZE) // 2, (picture.shape[1] - SIZE) // 2
    return np.ascontiguousarray(picture[top : top + SIZE, left : left + SIZE])


def each_second(file: str | IO[bytes]) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Time and pixels of the first frame at or after each whole second."""
    with av.open(file) as container:
        wanted = 0.0
        for frame in container.decode(video=0):
            if frame.time is None or frame.time + 1e-6 < wanted:
                continue
            wanted += 1.0
            width = round(frame.width * SHORT_SIDE / frame.height)
            scaled = frame.reformat(width=width, height=SHORT_SIDE, format="rgb24")
            yield frame.time, crop(scaled.to_ndarray())


class Fused:
    """Rows of a whole file by cliploom's functions."""

    def __init__(self, model: str) -> None:
        from pathlib import Path

        from cliploom.schemas.media import MediaLimits
        from cliploom.schemas.sampling import Every
        from cliploom.transforms.encoders.registry import load, read_card
        from cliploom.transforms.media.decode import Request, decode
        from cliploom.transforms.media.probe import probe

        encoder = load(Path(model), 1)
        preprocess = read_card(Path(model)).preprocess
        if preprocess is None:
            raise ValueError(f"{model} is no encoder of pictures")
        request = Request(Every(every="1s"), preprocess)  # type: ignore[arg-type]

        def rows(path: str) -> list[tuple[float, NDArray[np.float32]]]:
            sampled = list(decode(Path(path), probe(Path(path), MediaLimits()), [request]))
            found = encoder.encode([one.pixels for one in sampled])
            return [(one.start_s or 0.0, row["pooled"]) for one, row in zip(sampled, found, strict=True)]  # type: ignore[index]

        self.rows = rows

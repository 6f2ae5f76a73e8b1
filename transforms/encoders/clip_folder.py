"""Folders of published image-text models: their files and their picture preprocessing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.media import Preprocess
from cliploom.transforms.encoders.hub import hub_folder

Family = Literal["clip", "siglip", "siglip2", "open_clip"]

OPEN_CLIP_CONFIG = "open_clip_config.json"
_TEXTS = ("*.json", "*.txt", "*.model")
_OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_FILTERS: Mapping[int, Literal["bilinear", "bicubic", "area"]] = {2: "bilinear", 3: "bicubic", 4: "area"}
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipFolder:
    """An image-text model on this machine.

    Attributes:
        folder: the folder of configuration and tokenizer.
        family: the model family.
        files: the relative names of all files that the vectors depend on, sorted.
        weights: the file of an open_clip checkpoint; None if transformers finds the weights itself.
    """

    folder: Path
    family: Family
    files: tuple[str, ...]
    weights: Path | None = None


def find_clip(model: str, revision: str | None = None) -> ClipFolder:
    """Find and identify a model; one on the hub is downloaded.

    Args:
        model: a folder of transformers, sentence-transformers or open_clip, a checkpoint of open_clip with its
            ``open_clip_config.json`` in the same folder, or a name on the hub; the prefixes ``hf-hub:`` and
            ``local-dir:`` mean open_clip, as in open_clip itself.
        revision: the revision of a name on the hub.

    Raises:
        CliploomError: it is none of these.
    """
    scheme, _, rest = model.partition(":")
    if scheme == "hf-hub":
        patterns = [OPEN_CLIP_CONFIG, *_TEXTS]
        folder = hub_folder("open_clip", rest, revision, [*patterns, "open_clip*.safetensors"])
        if not _checkpoints(folder):
            folder = hub_folder("open_clip", rest, revision, [*patterns, "open_clip*.bin"])
        return _open_clip(folder, model)
    if scheme == "local-dir":
        return _open_clip(Path(rest).expanduser(), model)
    local = Path(model).expanduser()
    if local.is_file():
        return _open_clip(local.parent, model, local)
    if local.is_dir():
        return _local(local.resolve(), model)
    fetched: Path | None = None
    for weights in ("*.safetensors", "pytorch_model*.bin"):
        patterns = [*_TEXTS, weights, *(f"0_CLIPModel/{name}" for name in (*_TEXTS, weights))]
        fetched = hub_folder("CLIP", model, revision, patterns, ["open_clip*", "onnx/*", "openvino/*"])
        if _weights(_transformers_folder(fetched)):
            break
    assert fetched is not None  # noqa: S101
    return _local(fetched, model)


def _local(folder: Path, model: str) -> ClipFolder:
    inner = _transformers_folder(folder)
    config = _json(inner / "config.json")
    family = config.get("model_type")
    weights = _weights(inner)
    if family in ("clip", "siglip", "siglip2") and weights:
        texts = [path.name for pattern in _TEXTS for path in inner.glob(pattern) if path.name != OPEN_CLIP_CONFIG]
        return ClipFolder(inner, family, tuple(sorted({*texts, *weights})))
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return _open_clip(folder, model)
    if family is None:
        raise CliploomError(
            f"'{model}' holds no config.json of transformers and no {OPEN_CLIP_CONFIG}; give the folder of a CLIP, "
            "SigLIP or SigLIP2 model."
        )
    if family not in ("clip", "siglip", "siglip2"):
        raise CliploomError(
            f"'{model}' is a model of type '{family}'; kind: clip takes clip, siglip, siglip2 and open_clip. "
            "Export another to ONNX and use kind: onnx."
        )
    raise CliploomError(f"'{model}' holds no model.safetensors and no pytorch_model.bin; download the weights, too.")


def _transformers_folder(folder: Path) -> Path:
    """Return the folder itself, or that of the CLIP module in a folder of sentence-transformers."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return folder
    listed = json.loads(modules.read_text(encoding="utf-8"))
    inner = (folder / str(listed[0].get("path", ""))).resolve()
    return inner if inner.is_relative_to(folder.resolve()) else folder


def _weights(folder: Path) -> list[str]:
    """Return the names of the weight files: safetensors, else PyTorch's, of which only tensors are read."""
    found = sorted(p.name for p in folder.glob("*.safetensors") if not p.name.startswith("open_clip"))
    return found or sorted(p.name for p in folder.glob("pytorch_model*.bin"))


def _checkpoints(folder: Path) -> list[Path]:
    named = [folder / name for name in _OPEN_CLIP_WEIGHTS if (folder / name).is_file()]
    return named or sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.pt"))


def _open_clip(folder: Path, model: str, weights: Path | None = None) -> ClipFolder:
    if not (folder / OPEN_CLIP_CONFIG).is_file():
        raise CliploomError(
            f"There is no {OPEN_CLIP_CONFIG} in '{folder}'; open_clip's model '{model}' needs it beside its weights."
        )
    found = [weights] if weights is not None else _checkpoints(folder)
    if not found:
        raise CliploomError(f"'{folder}' holds no {_OPEN_CLIP_WEIGHTS[0]}; download the weights, too.")
    texts = [path.name for pattern in _TEXTS for path in folder.glob(pattern)]
    return ClipFolder(folder.resolve(), "open_clip", tuple(sorted({*texts, found[0].name})), found[0].resolve())


def picture_settings(folder: Path, family: Family) -> Preprocess:
    """Return the preprocessing from ``preprocessor_config.json`` or ``processor_config.json``.

    Raises:
        CliploomError: neither exists, or the settings give no fixed size.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        config = _json(folder / name)
        config = config.get("image_processor", config if name.startswith("pre") else {})
        if config:
            return processor_settings(config, family, str(folder / name))
    raise CliploomError(f"'{folder}' holds no preprocessor_config.json, which says how pictures are prepared.")


def processor_settings(config: Mapping[str, Any], family: Family, source: str) -> Preprocess:
    """Return a Hugging Face image processor's settings as a ``Preprocess``.

    Args:
        config: the configuration of the processor; missing values are the family's defaults.
        family: the family of the model.
        source: the name of the file, for messages.

    >>> clip = processor_settings({"size": 224, "crop_size": 224}, "clip", "preprocessor_config.json")
    >>> clip.width, clip.fit, clip.crop, clip.filter, clip.rounding
    (224, 'crop', 1.0, 'bicubic', 'huggingface')
    """
    if family == "siglip2":
        return _patches(config, source)
    squash = family == "siglip"
    size = config.get("size", 224)
    if isinstance(size, int):
        size = {"height": size, "width": size} if squash else {"shortest_edge": size}
    cropped = bool(config.get("do_center_crop", not squash))
    crop = config.get("crop_size", 224)
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    if not config.get("do_resize", True):
        raise CliploomError(f"{source} says do_resize: false; pictures of any size need it.")
    if size.get("height") and size.get("width"):
        width, height, share, fit = int(size["width"]), int(size["height"]), 1.0, "squash"
        if cropped and (int(crop["width"]), int(crop["height"])) != (width, height):
            raise CliploomError(f"{source} scales to {width}x{height} and then crops, which is not supported.")
    elif size.get("shortest_edge") and cropped:
        width, height, fit = int(crop["width"]), int(crop["height"]), "crop"
        share = min(width, height) / int(size["shortest_edge"])
        if share > 1 or width != height:
            raise CliploomError(
                f"{source} crops {width}x{height} of a short side of {size['shortest_edge']}; only a square that fits "
                "in is supported."
            )
    else:
        raise CliploomError(
            f"{source} gives pictures no fixed size (size {json.dumps(size)}); give size height and width, or "
            "shortest_edge with do_center_crop."
        )
    offset, scale = _normalisation(config, squash)
    return Preprocess(
        width=width,
        height=height,
        fit=fit,  # type: ignore[arg-type]
        crop=share,
        filter=_filter(config, source, 3),
        offset=offset,
        scale=scale,
        alpha="drop",
        rounding="huggingface",
    )


def _patches(config: Mapping[str, Any], source: str) -> Preprocess:
    """Return SigLIP2's settings: as many patches as fit, at any aspect ratio."""
    patch, most = int(config.get("patch_size", 16)), int(config.get("max_num_patches", 256))
    offset, scale = _normalisation(config, True)
    chosen = _filter(config, source, 2)
    rows = math.isqrt(most) if math.isqrt(most) ** 2 == most else 1
    return Preprocess(
        width=most // rows * patch,
        height=rows * patch,
        fit="patches",
        filter=chosen,
        offset=offset,
        scale=scale,
        alpha="drop",
        patch=patch,
    )


def _filter(config: Mapping[str, Any], source: str, usual: int) -> Literal["bilinear", "bicubic", "area"]:
    number = config.get("resample")
    number = usual if number is None else number
    if number not in _FILTERS:
        raise CliploomError(
            f"{source} says resample: {number}; set it to 2 (bilinear), 3 (bicubic) or 4 (area), whichever is nearest."
        )
    return _FILTERS[number]


def _normalisation(
    config: Mapping[str, Any], halves: bool
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return ``offset`` and ``scale`` on 0..255 for a processor's factor, mean and deviation."""
    factor = float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 1.0
    if not config.get("do_normalize", True):
        return (0.0,) * 3, (1 / factor,) * 3
    mean = config.get("image_mean") or ((0.5,) * 3 if halves else _CLIP_MEAN)
    deviation = config.get("image_std") or ((0.5,) * 3 if halves else _CLIP_STD)
    return tuple(m / factor for m in mean), tuple(d / factor for d in deviation)  # type: ignore[return-value]


def _json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if there is none.

    Raises:
        CliploomError: it has other content.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CliploomError(f"'{path}' is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise CliploomError(f"'{path}' holds {type(value).__name__} where settings are expected.")
    return value

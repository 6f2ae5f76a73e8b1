"""Checks a public model on this machine against the results of its publisher."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliploom.pipelines.console import middle, width
from cliploom.schemas.errors import CliploomError, ItemError
from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders.presets import Preset, Scores, find_preset, with_preset
from cliploom.transforms.encoders.registry import family
from cliploom.transforms.encoders.saved_model_files import is_archive
from cliploom.transforms.model_files.apart import look_apart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FOLDERS = ("", "media", "gifs", "videos", "models")
_MOST_LOOKED_AT = 8
_COLUMN = 21  # column of file names


@dataclass(frozen=True)
class Score:
    """One published score.

    Attributes:
        file: the name of the media file.
        sentence: the sentence that it is compared with.
        published: the published dot product.
        here: the dot product computed here.
    """

    file: str
    sentence: str
    published: float
    here: float


@dataclass(frozen=True)
class PresetCheck:
    """The result of a check.

    Attributes:
        name: the name of the preset.
        model: the path of the model; empty if it is missing.
        missing: maps the name of a missing file to where it is published.
        dims: maps an output to (published, computed) length.
        agreement: the agreement with the original framework by output; empty if it was not measured.
        note: a note on the agreement.
        scores: the published scores and those computed here.
        tolerance: the largest acceptable difference of scores.
    """

    name: str
    model: str
    missing: dict[str, str]
    dims: dict[str, tuple[int, int]]
    agreement: dict[str, float]
    note: str
    scores: tuple[Score, ...]
    tolerance: float

    @property
    def right(self) -> bool:
        """Whether nothing is missing, and all results are as published."""
        same = all(published == here for published, here in self.dims.values())
        return not self.missing and same and all(self.is_equal(score) for score in self.scores)

    def is_equal(self, score: Score) -> bool:
        """Return whether a score is as published."""
        return abs(score.here - score.published) <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "preset": self.name,
            "model": self.model,
            "missing": self.missing,
            "dims": {name: {"published": both[0], "here": both[1]} for name, both in self.dims.items()},
            "agreement": self.agreement,
            "note": self.note,
            "scores": [vars(score) | {"equal": self.is_equal(score)} for score in self.scores],
            "right": self.right,
        }


def check_preset(name: str, folder: Path, on_stage: Callable[[str], None]) -> PresetCheck:
    """Prepare a public model in a temporary folder and compare it with published results.

    Args:
        name: the name of the preset.
        folder: the folder with the model's files and, if there are published scores, the media; they may be in its
            subfolders ``media``, ``gifs``, ``videos`` or ``models``.
        on_stage: a callback that receives progress messages.

    Raises:
        SpecError: the preset is unknown.
        CliploomError: the files cannot be used.
    """
    preset = find_preset(name)
    model = _model_of(name, preset, folder)
    files = {file: _beside(folder, file) for file in (preset.scores.files if preset.scores else {})}
    missing = {} if model is not None else {preset.files[0]: preset.published}
    if preset.scores is not None:
        missing |= {file: preset.scores.files[file].url for file, path in files.items() if path is None}
    tolerance = preset.scores.tolerance if preset.scores is not None else 0.0
    if model is None or missing:
        return PresetCheck(name, str(model or ""), missing, {}, {}, "", (), tolerance)
    from cliploom.pipelines.planning.preparing import prepare_safely
    from cliploom.schemas.spec import Limits

    look_apart(model, str(model))
    kind = family(preset.kind)
    settings: dict[str, Any] = {preset.takes: str(model)} | ({"trusted": True} if model.suffix == ".pt2" else {})
    options = kind.Options.model_validate(with_preset(preset.kind, name, settings))
    with tempfile.TemporaryDirectory(prefix="cliploom-check-") as scratch:
        on_stage(f"preparing {model}")
        prepared, card = prepare_safely(name, preset.kind, options, Path(scratch), None, Limits())
        dims = {output: (dim, card.outputs[output].dim) for output, dim in preset.dims.items()}
        scores: tuple[Score, ...] = ()
        if preset.scores is not None:
            on_stage(f"scoring {len(files)} files and {len(preset.scores.sentences)} sentences")
            scores = _scores(preset, preset.scores, files, prepared, card)
    return PresetCheck(name, str(model), {}, dims, card.agreement, card.note, scores, tolerance)


def _model_of(name: str, preset: Preset, folder: Path) -> Path | None:
    """Return the model's file or folder: one of its usual names, else a path recognised as this preset."""
    for wanted in (*preset.files, name):
        found = _beside(folder, wanted)
        if found is not None:
            return found
    others = [path for place in ("", "models") for path in sorted((folder / place).glob("*"))]
    others = [path for path in others if is_archive(path) or (path / "saved_model.pb").is_file()][:_MOST_LOOKED_AT]
    for path in others:
        try:
            if look_apart(path, str(path)).preset == name:
                return path
        except CliploomError:
            continue
    return None


def _beside(folder: Path, name: str) -> Path | None:
    return next((folder / place / name for place in _FOLDERS if (folder / place / name).exists()), None)


def _scores(
    preset: Preset, scores: Scores, files: dict[str, Path | None], folder: Path, card: ModelCard
) -> tuple[Score, ...]:
    from cliploom.transforms.encoders.registry import load_text_tower

    words = load_text_tower(folder)(list(scores.sentences))
    found = []
    for name, path in files.items():
        assert path is not None  # noqa: S101
        vector = _clip_vector(path, preset, folder, card, scores.output)
        pairs = zip(scores.sentences, scores.files[name].scores, words @ vector, strict=True)
        found += [Score(name, sentence, published, round(float(here), 4)) for sentence, published, here in pairs]
    return tuple(found)


def _clip_vector(path: Path, preset: Preset, folder: Path, card: ModelCard, output: str) -> NDArray[np.float32]:
    """Return the vector of a media file's first sample, float32 [dim].

    Raises:
        CliploomError: it cannot be decoded or encoded.
    """
    from pydantic import TypeAdapter

    from cliploom.schemas.media import MediaLimits
    from cliploom.schemas.sampling import Sampling
    from cliploom.transforms.encoders.registry import load
    from cliploom.transforms.media.decode import DecodeReport, Request, decode
    from cliploom.transforms.media.probe import probe

    sampling: Any = TypeAdapter(Sampling).validate_python(preset.sample)
    assert card.preprocess is not None  # noqa: S101
    try:
        facts = probe(path, MediaLimits())
        samples = decode(path, facts, [Request(sampling, card.preprocess)], None, DecodeReport())
        (row,) = load(folder).encode([next(iter(samples)).pixels])
    except (ItemError, StopIteration) as error:
        raise CliploomError(f"'{path}' can't be scored: {str(error) or 'it has no frame'}") from None
    if isinstance(row, ItemError):
        raise CliploomError(f"'{path}' can't be scored: {row}")
    return row[output]


def check_text(check: PresetCheck) -> str:
    """Return the result as text."""
    if check.missing:
        names = [f"  {name}\n    {address}" for name, address in check.missing.items()]
        missing = "this file is missing" if len(names) == 1 else "these files are missing"
        here = [f"  {check.model} is there."] if check.model else []
        return "\n".join([f"{check.name} was not checked, {missing}:", *names, *here])
    lines = [f"{check.name}: {check.model}"]
    for output, (published, dim) in check.dims.items():
        said = "as published" if published == dim else f"published: {published}"
        lines.append(f"  {output}: {dim} numbers, {said}")
    for output, value in check.agreement.items():
        lines.append(f"  {output}: cosine {value:.7f} to the original framework")
    if check.note:
        lines.append(f"  {check.note}")
    if check.scores:
        lines += ["", "  published   here"]
        for score in check.scores:
            mark = " " if check.is_equal(score) else "!"
            about = middle(f"{score.file}, {score.sentence}", (width() or 80) - _COLUMN)
            lines.append(f"  {score.published:9.2f} {score.here:6.2f} {mark} {about}")
        equal = sum(check.is_equal(score) for score in check.scores)
        lines += ["", f"  {equal} of {len(check.scores)} scores are as published (within {check.tolerance:g})."]
    return "\n".join(lines)

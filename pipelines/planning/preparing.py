"""Preparing models of files that a spec names in a process of its own, within a time and a memory.

Such a file is a program: a loop of 10^9 steps, a constant of 4 GB or 20,000 nodes in a row would keep the launcher
for ever, or take it down. Models of packages, whose hashes are known, are prepared in this process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliploom.schemas.devices import GraphsCard, graphs_digest
from cliploom.schemas.errors import (
    CliploomError,
    DiskFullError,
    MissingExtraError,
    PrecisionError,
    SpecError,
    StoreError,
)
from cliploom.schemas.models import CARD_FILE, ModelCard
from cliploom.schemas.precision import Calibration
from cliploom.schemas.spec import Limits
from cliploom.schemas.units import format_duration
from cliploom.transforms.encoders.base import PLACE_OPTIONS, EncoderOptions, PreparedText
from cliploom.transforms.encoders.isolated import run_isolated
from cliploom.transforms.encoders.known_hashes import known_hashes
from cliploom.transforms.encoders.prepare import PREPARING, fingerprint_of, model_digest, prepare_model, prepared_text
from cliploom.transforms.encoders.quantised_options import original_options
from cliploom.transforms.encoders.registry import family, read_card
from cliploom.transforms.python_child import python_command
from cliploom.transforms.work.inflight import die_with

if TYPE_CHECKING:
    from cliploom.pipelines.planning.check import CheckedEncoder
    from cliploom.transforms.work.calibration import DrawingRequest

_LEAST_BYTES, _TIMES = 4_000_000_000, 8
_LONGEST = 300
_KINDS = {kind.__name__: kind for kind in (CliploomError, DiskFullError, PrecisionError, SpecError, StoreError)}
_KINDS["MissingExtraError"] = SpecError
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "allocate memory", "not enough memory")


@dataclass(frozen=True)
class PrepareLimits:
    """What preparing one model may take: seconds, and bytes of memory."""

    seconds: float
    memory: int

    @classmethod
    def of(cls, limits: Limits, files: int) -> PrepareLimits:
        """As the spec says; by default memory grows with the model's files, of ``files`` bytes together."""
        return cls(limits.prepare_time, limits.prepare_memory or _LEAST_BYTES + _TIMES * files)


def prepare_safely(
    name: str,
    kind: str,
    options: EncoderOptions,
    models: Path,
    text: PreparedText | None,
    limits: Limits,
    code: Mapping[str, str] | None = None,
    declared: Mapping[str, Any] | None = None,
) -> tuple[Path, ModelCard]:
    """Prepare a model, or find it prepared; see ``cliploom.transforms.encoders.prepare.prepare_model``.

    Files that did not change since an earlier run are not read again, and a prepared model whose files are gone stays
    in use; see ``cliploom.transforms.encoders.known_hashes``.

    Args:
        name: of the encoder in the spec, for messages.
        kind: registry name.
        options: an instance of the family's ``Options``.
        models: local folder that holds model folders.
        text: the text encoder that the spec names.
        limits: of the spec.
        code: module -> digest of a custom encoder's source, where the vectors depend on it.
        declared: the options as the spec writes them; by default as checked.

    Raises:
        CliploomError: also when it takes more than the limits, or takes its process down.
    """
    chosen = family(kind)
    written = options.model_dump(mode="json") if declared is None else dict(declared)
    written = {key: value for key, value in written.items() if key not in PLACE_OPTIONS}
    text_digest = text.card.digest if text else ""
    with known_hashes(models) as known:
        try:
            fingerprint = known.fingerprint(kind, written, lambda: fingerprint_of(chosen, options))
        except CliploomError:
            vanished = known.of_vanished(kind, written)
            final = models / model_digest(chosen, options, text_digest, code, vanished[0]) if vanished else models
            if vanished is None or not (final / CARD_FILE).exists():
                raise
            return final, _without_files(read_card(final), vanished[1])
        final = models / model_digest(chosen, options, text_digest, code, fingerprint)
        if (final / CARD_FILE).exists():
            return final, read_card(final)
        files = chosen.foreign_bytes(options)
        if files is None:
            return prepare_model(kind, options, models, text, code)
        known.save()  # for the process that prepares
        request = _request_of(kind, options, models, text) | {"code": dict(code or {})}
        _prepare_apart(f"encoders.{name}", request, PrepareLimits.of(limits, files))
    return final, read_card(final)


def graphs_safely(name: str, models: Path, card: ModelCard) -> GraphsCard:
    """Write the ONNX graphs of a prepared model in a process of its own, or find them written.

    Args:
        name: of the encoder in the spec, for messages.
        models: local folder that holds model folders.
        card: of the model.

    Raises:
        MissingExtraError: when a package is missing.
        CliploomError: when the model has no graph that gives the same vectors.
    """
    from cliploom.transforms.encoders.device_graphs import read_graphs_card, require_runtime

    final = models / graphs_digest(card.digest)
    if (final / CARD_FILE).exists():
        return read_graphs_card(final)
    require_runtime()
    try:
        target = "cliploom.transforms.encoders.device_graphs:prepare_graphs"
        found = run_isolated(target, f"encoders.{name}: writing its ONNX graph", models=str(models), digest=card.digest)
    except CliploomError as error:
        raise CliploomError(f"encoders.{name}.device: {error}") from None
    return GraphsCard.from_dict(found)


def _without_files(card: ModelCard, files: Sequence[str]) -> ModelCard:
    """The card with a note that the model's own files are gone."""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    gone = f"its files are gone ({files[0]}{more}), so the model that the store prepared from them is used"
    return replace(card, note=f"{card.note}; {gone}" if card.note else gone)


def quantise_safely(
    encoder: CheckedEncoder,
    original: tuple[Path, ModelCard],
    models: Path,
    text: PreparedText | None,
    limits: Limits,
    drawing: DrawingRequest,
    codes: Mapping[str, Mapping[str, str]],
) -> tuple[Path, ModelCard, Calibration | None]:
    """Draw samples and prepare a quantised model in a process of its own.

    Args:
        encoder: of precision ``int8`` or ``int8_weights``.
        original: folder and card of its float32 model.
        models: local folder that holds model folders.
        text: the text encoder that the spec names.
        limits: of the spec.
        drawing: what to draw samples from.
        codes: ``code`` of a custom encoder (module -> digest) where the model's digest covers it, and ``original_code``
            where that of its float32 model does.

    Returns:
        The folder and its card, and the samples, when it was calibrated with any.

    Raises:
        MissingExtraError: without NNCF.
        CliploomError: also when it takes more than the limits, or takes its process down.
    """
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtraError("int8", f"encoders.{encoder.name}: precision {encoder.options.precision}")
    files = sum(path.stat().st_size for path in original[0].rglob("*") if path.is_file())
    request = _request_of(encoder.spec.kind, encoder.options, models, text) | {"drawing": drawing.to_dict(), **codes}
    found = _prepare_apart(f"encoders.{encoder.name}", request, PrepareLimits.of(limits, files))
    calibration = found.get("calibration")
    folder = models / found["digest"]
    return folder, read_card(folder), None if calibration is None else Calibration.from_dict(calibration)


def _request_of(kind: str, options: EncoderOptions, models: Path, text: PreparedText | None) -> dict[str, Any]:
    """What the process of its own needs to know of a model."""
    return {
        "kind": kind,
        "options": options.model_dump(mode="json", exclude_unset=True),
        "models": str(models),
        "text": str(text.folder) if text else "",
        "parent": os.getpid(),
    }


def _prepare_apart(place: str, request: dict[str, Any], limits: PrepareLimits) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cliploom-prepare-") as folder:
        answer, asked = Path(folder) / "answer.json", Path(folder) / "request.json"
        asked.write_text(json.dumps(request | {"memory": limits.memory, "answer": str(answer)}), encoding="utf-8")
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(python_command(__name__, str(asked)), stdout=log, stderr=log)
            try:
                code: int | None = process.wait(limits.seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                process.kill()
                process.wait()
                for left in Path(request["models"]).glob(f"{PREPARING}*-{process.pid}-*"):
                    shutil.rmtree(left, ignore_errors=True)
        found = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
    if code is None:
        took = f"more than {format_duration(limits.seconds)} (limits.prepare_time)"
        raise CliploomError(_too_much(place, took, "prepare_time", format_duration(6 * limits.seconds)))
    if found.get("memory"):
        took = f"more than {limits.memory / 1e9:.1f} GB of memory (limits.prepare_memory)"
        raise CliploomError(_too_much(place, took, "prepare_memory", f"{4 * limits.memory // 10**9}GB"))
    if "error" in found:
        kind = _KINDS.get(found["kind"])
        raise CliploomError(f"{place}: {found['error']}.") if kind is None else kind(found["error"])
    if code != 0 or not found:
        died = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise CliploomError(
            f"{place}: preparing this model took its process down ({died}), as damaged and hostile files do, or one "
            "that needs more memory than this machine has; use another file."
        )
    return found


def _too_much(place: str, took: str, limit: str, more: str) -> str:
    return (
        f"{place}: preparing this model took {took}; if you trust its files, allow more: --set limits.{limit}={more}."
    )


def main(arguments: list[str]) -> None:
    """Prepare what the request file says, and write the answer that it names."""
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    die_with(request["parent"])
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = request["memory"] if most == resource.RLIM_INFINITY else min(request["memory"], most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        options = family(request["kind"]).Options.model_validate_json(json.dumps(request["options"]))
        folder = Path(request["text"]) if request["text"] else None
        text = prepared_text(folder, read_card(folder)) if folder else None
        models = Path(request["models"])
        answer: dict[str, Any] = {"done": True}
        if "drawing" in request:
            from cliploom.transforms.work.calibration import DrawingRequest

            drawing = DrawingRequest.from_dict(request["drawing"])
            with known_hashes(models):
                codes = request["code"], request["original_code"]
                answer |= _draw_and_quantise(request["kind"], options, models, text, drawing, *codes)
        else:
            with known_hashes(models):
                prepare_model(request["kind"], options, models, text, request["code"])
    except CliploomError as error:
        answer = {"error": str(error), "kind": type(error).__name__, "memory": _lacks_memory(error)}
    except Exception as error:  # the libraries that read foreign files have many kinds of their own
        traceback.print_exc()
        reason = " ".join(str(error).split())[:_LONGEST]
        told = f"this model can't be prepared ({type(error).__name__}: {reason})"
        answer = {"error": told, "kind": "", "memory": _lacks_memory(error)}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _draw_and_quantise(
    kind: str,
    options: EncoderOptions,
    models: Path,
    text: PreparedText | None,
    drawing: DrawingRequest,
    code: dict[str, str],
    original_code: dict[str, str],
) -> dict[str, Any]:
    """Prepare a quantised model; gives its digest and, where it was calibrated, its samples."""
    from cliploom.transforms.encoders.processor import processor_features, sums_exactly
    from cliploom.transforms.encoders.quantised import DrawnSamples, prepare_quantised, sentences_of_program
    from cliploom.transforms.work.calibration import FEWEST, drawn_samples, with_overflow_fix

    original = prepare_model(kind, original_options(options), models, text, original_code)
    before = original[1]
    preprocess, shape = before.preprocess, ()
    if preprocess is not None:
        frames = (before.clip_frames,) if before.modality == "clip" else ()
        shape = (*frames, preprocess.height, preprocess.width, 3)
    with drawn_samples(drawing, preprocess, shape) as (drawn, names):
        calibration = None
        if drawing.calibrate:
            exact = sums_exactly(processor_features())
            calibration = with_overflow_fix(names, drawing.known, overflow_fix=not exact)
        if preprocess is None and len(drawn.items) < FEWEST:
            sentences = [*drawn.items, *sentences_of_program()]
            drawn = DrawnSamples(sentences, tuple(range(len(sentences))), drawn.inputs)
        _, card = prepare_quantised(kind, options, models, text, drawn, calibration, code=code, original=original)
    return {"digest": card.digest, "calibration": None if calibration is None else calibration.to_dict()}


def _lacks_memory(error: BaseException) -> bool:
    """Whether an error, or what it came from, says that there was no memory."""
    here: BaseException | None = error
    while here is not None:
        if isinstance(here, MemoryError) or any(sign in str(here).lower() for sign in _OUT_OF_MEMORY):
            return True
        here = here.__cause__ or here.__context__
    return False

"""Prepares a model once, on the launcher, in a folder named by the digest of everything its vectors depend on."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.errors import CliploomError, SpecError, StoreError, short
from cliploom.schemas.faults import system_fault
from cliploom.schemas.models import CARD_FILE, ModelCard
from cliploom.schemas.precision import QUANTISE_REVISION
from cliploom.transforms.encoders.agreement import check_agreement
from cliploom.transforms.encoders.base import EncoderOptions, Family, PreparedText
from cliploom.transforms.encoders.quantised_options import quantised
from cliploom.transforms.encoders.registry import family, load_text_tower, not_ending, read_card

PREPARING = ".preparing-"
"""Prefix of incomplete folders, followed by digest, process and a random part."""


def model_digest(
    kind: Family,
    options: EncoderOptions,
    text_digest: str = "",
    code: Mapping[str, str] | None = None,
    fingerprint: Mapping[str, str] | None = None,
    calibration: str = "",
) -> str:
    """Return the digest of a model before it is prepared.

    Args:
        kind: the kind of the encoder.
        options: the checked options; those that change no vector are ignored.
        text_digest: the digest of the text encoder that it builds on.
        code: module -> digest of a custom encoder's source, if the vectors depend on it.
        fingerprint: the fingerprint of its files, if known.
        calibration: the digest of the samples that a quantised model is calibrated with.

    Raises:
        CliploomError: the weights are missing.
    """
    values = {
        "kind": kind.kind,
        "revision": kind.REVISION,
        "options": options.values(),
        "fingerprint": fingerprint_of(kind, options) if fingerprint is None else dict(fingerprint),
        "text": text_digest,
        **({"code": dict(code)} if code else {}),
    }
    return digest_of(values | ({"quantised": calibration or QUANTISE_REVISION} if quantised(options) else {}))


def fingerprint_of(kind: Family, options: EncoderOptions) -> dict[str, str]:
    """The fingerprint of an encoder's files, as ``Family.fingerprint`` gives it.

    Raises:
        CliploomError: when the weights are not there, or a custom encoder gives an invalid fingerprint.
    """
    found: object = kind.fingerprint(options)
    if not isinstance(found, dict) or not all(isinstance(each, str) for pair in found.items() for each in pair):
        raise CliploomError(
            f"The encoder kind '{kind.kind}' gives {short(found)} as its fingerprint; let fingerprint return a dict "
            "from file names to hashes, both strings, or {} where it has no files."
        )
    return found


def prepare_model(
    kind: str,
    options: EncoderOptions,
    models: Path,
    text: PreparedText | None = None,
    code: Mapping[str, str] | None = None,
) -> tuple[Path, ModelCard]:
    """Prepare a model, unless it is prepared already.

    It is written under a temporary name, its card last, and renamed when complete: a folder with a card is complete,
    and of two concurrent launchers one wins.

    Args:
        kind: the kind of the encoder.
        options: an instance of the family's ``Options``.
        models: the local folder of model folders; created if missing.
        text: the text encoder named in the spec, prepared in the same ``models``.
        code: see ``model_digest``.

    Returns:
        The folder ``models/<digest>`` and its card.

    Raises:
        CliploomError: weights are missing, or the result agrees too little with the original.
        SpecError: the family does not support a text encoder.
        StoreError: ``models`` exists but is not a folder.
    """
    chosen = family(kind)
    if text is not None and not chosen.TEXT_ENCODER:
        raise SpecError(f"The encoder kind '{kind}' does not support text_encoder; remove it.")
    if text is not None and text.card.modality != "text":
        raise SpecError(f"text_encoder must be a text encoder; '{text.card.kind}' encodes {text.card.modality}s.")
    digest = model_digest(chosen, options, text.card.digest if text else "", code)
    final = models / digest
    if (final / CARD_FILE).exists():
        return final, read_card(final)
    if quantised(options):
        raise CliploomError(
            f"An encoder of precision {options.precision} is prepared with samples, which `cliploom run` draws from "
            "the sources of a spec."
        )
    try:
        models.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StoreError(f"{models} is not a folder (a file, or a link that leads nowhere); remove it.") from None
    # beside the final folder, so that the relative path to the text encoder is valid while measuring too
    folder = models
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREPARING}{digest[:SHORT]}-{os.getpid()}-", dir=models))
        with not_ending(kind, "prepared"):
            card = replace(chosen.prepare(options, folder, text), digest=digest)
        check_agreement(card)
        (folder / CARD_FILE).write_text(json.dumps(card.to_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        folder.chmod(0o755)
        publish_folder(folder, final)
    except (OSError, RuntimeError) as error:
        fault = system_fault(error, str(models))
        if fault is None:
            raise
        raise fault from error
    finally:
        if folder != models:
            shutil.rmtree(folder, ignore_errors=True)
    return final, read_card(final)


def publish_folder(folder: Path, final: Path) -> None:
    """Rename a folder; an existing one without a card is replaced, one with a card, from another launcher, is kept."""
    if final.exists() and not (final / CARD_FILE).exists():
        shutil.rmtree(final)
    try:
        folder.rename(final)
    except OSError:
        if not (final / CARD_FILE).exists():
            raise


def prepared_text(folder: Path, card: ModelCard) -> PreparedText:
    """Return a prepared text tower, for ``prepare_model`` of an encoder that builds on it."""
    return PreparedText(folder, card, load_text_tower(folder))

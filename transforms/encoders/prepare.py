"""Preparing a model once, on the launcher: a folder named by the digest of all that its vectors depend on."""

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
"""Start of the names of folders that are being written: then digest, process and chance."""


def model_digest(
    kind: Family,
    options: EncoderOptions,
    text_digest: str = "",
    code: Mapping[str, str] | None = None,
    fingerprint: Mapping[str, str] | None = None,
    calibration: str = "",
) -> str:
    """Digest of a model before it is prepared.

    Args:
        kind: the family.
        options: checked options; those that change no vector don't count.
        text_digest: of the text encoder that it builds on.
        code: module -> digest of a custom encoder's source, where the vectors depend on it.
        fingerprint: of its files, where it is known.
        calibration: digest of the samples that a quantised model is calibrated with.

    Raises:
        CliploomError: when the weights are not there.
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
        CliploomError: when the weights are not there, or a custom encoder gives what is no fingerprint.
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
    """Prepare a model, or find it prepared.

    It is written under another name and renamed when whole, its card last: a folder with a card is complete, and of two
    launchers one wins.

    Args:
        kind: registry name.
        options: an instance of the family's ``Options``.
        models: local folder that holds model folders; made when missing.
        text: the text encoder that the spec names, prepared in the same ``models``.
        code: see ``model_digest``.

    Returns:
        The folder ``models/<digest>`` and its card.

    Raises:
        CliploomError: when weights are missing, or the result agrees too little with the original.
        SpecError: when the family takes no text encoder.
        StoreError: when something that is no folder stands in place of ``models``.
    """
    chosen = family(kind)
    if text is not None and not chosen.TEXT_ENCODER:
        raise SpecError(f"The encoder kind '{kind}' takes no text_encoder; leave it out.")
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
        raise StoreError(f"{models} is no folder (a file, or a link that leads nowhere); remove it.") from None
    # beside the final folder, so that the relative path to the text encoder's holds while measuring, too
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
    """Rename; a folder there without a card is a leftover and goes, one with a card is another launcher's and stays."""
    if final.exists() and not (final / CARD_FILE).exists():
        shutil.rmtree(final)
    try:
        folder.rename(final)
    except OSError:
        if not (final / CARD_FILE).exists():
            raise


def prepared_text(folder: Path, card: ModelCard) -> PreparedText:
    """A prepared text encoder, for ``prepare_model`` of an encoder that builds on it."""
    return PreparedText(folder, card, load_text_tower(folder))

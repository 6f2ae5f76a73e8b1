"""The location of trained heads in a store, ``models/head-<name>/<digest>/``, immutable, and the current one.

A vacuum keeps them: unlike other models they cannot be rebuilt from the spec.
"""

from __future__ import annotations

import json
from pathlib import Path

from cliploom.schemas.errors import SpecError, StoreError, nearest
from cliploom.schemas.models import CARD_FILE
from cliploom.transforms.store.object_store import ObjectStore

CURRENT = "current.json"
_PREFIX = "models/head-"


def head_folder(name: str) -> str:
    """Return the folder of all trainings of a head, relative to the store."""
    return f"{_PREFIX}{name}"


def current_model(objects: ObjectStore, name: str) -> str | None:
    """Return the folder of the head's latest training, relative to the store; None if it was never trained.

    Raises:
        StoreError: the file that names it is damaged.
    """
    path = f"{head_folder(name)}/{CURRENT}"
    try:
        digest = json.loads(objects.get(path))["digest"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{objects.uri_of(path)} is damaged ({type(error).__name__}); train the head again.") from None
    return f"{head_folder(name)}/{digest}"


def trained_model(objects: ObjectStore, name: str) -> str:
    """Return the ``current_model`` of a head that must have been trained.

    Raises:
        SpecError: it was not trained; the message names the trained heads.
    """
    found = current_model(objects, name)
    if found is None:
        prefix = len(_PREFIX)
        known = sorted(
            entry.path[prefix:].partition("/")[0]
            for entry in objects.list("models")
            if entry.path.startswith(_PREFIX) and entry.path.endswith(f"/{CURRENT}")
        )
        hint = nearest(name, known) if known else f"; `cliploom train SPEC --head {name}` trains it."
        raise SpecError(f"{objects.uri} has no trained head {name!r}{hint}")
    return found


def is_published(objects: ObjectStore, model: str) -> bool:
    """Return whether the head exists completely."""
    return objects.size(f"{model}/{CARD_FILE}") is not None


def publish_head(objects: ObjectStore, folder: Path, name: str, digest: str) -> str:
    """Store a head's files, the card last, and make it the current one; return its folder."""
    model = f"{head_folder(name)}/{digest}"
    put_head_files(objects, folder, model)
    use_head(objects, name, digest)
    return model


def put_head_files(objects: ObjectStore, folder: Path, model: str) -> None:
    """Store a head's files in a folder of the store, the card last."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.name == CARD_FILE)
    for path in files:
        objects.put_new(f"{model}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def use_head(objects: ObjectStore, name: str, digest: str) -> None:
    """Make a published head the current one."""
    objects.put(f"{head_folder(name)}/{CURRENT}", json.dumps({"digest": digest}).encode())

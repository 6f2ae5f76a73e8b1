"""Immutable files of a store as local files: in place if they are on disk, else one downloaded copy of each."""

from __future__ import annotations

from pathlib import Path

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import StoreError
from cliploom.transforms.store.local_folder import arriving, private_folder
from cliploom.transforms.store.object_store import ObjectStore


def kept_copy(objects: ObjectStore, path: str) -> Path:
    """Return a local file with the bytes of ``path`` that persists after this call.

    Copies of remote files are in the machine's temporary folder, named by URI: files of a store never change.

    Raises:
        StoreError: it does not exist.
    """
    missing = StoreError(
        f"{objects.uri_of(path)} does not exist: the store was moved, or a vacuum removed the release that was opened; "
        "open it again."
    )
    if objects.root is not None:
        if not (objects.root / path).exists():
            raise missing
        return objects.root / path
    folder = private_folder("files")
    target = folder / f"{digest_of(objects.uri_of(path))}{Path(path).suffix}"
    if not target.exists():
        try:
            with arriving(target) as local:
                objects.download(path, local)
        except FileNotFoundError:
            raise missing from None
    return target

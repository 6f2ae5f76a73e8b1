"""A bounded cache of a bucket's immutable files on this machine, by digest; files on disk are used where they are."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from cliploom.schemas.digests import digest_file
from cliploom.schemas.errors import StoreError
from cliploom.schemas.release import FileEntry
from cliploom.transforms.store.local_folder import arriving, evict, private_folder
from cliploom.transforms.store.object_store import ObjectStore

CACHE_BYTES = 20_000_000_000


def cached_file(objects: ObjectStore, entry: FileEntry, limit: int = CACHE_BYTES) -> Path:
    """A local path with the bytes of a file that a release names.

    What is fetched is checked against the digest, once. Who has a file open or mapped may go on reading it after it
    was evicted.

    Args:
        objects: the store.
        entry: the file.
        limit: bytes that the cache may hold; files used longest ago go first.

    Raises:
        StoreError: when the file is missing, or what was fetched is not what the release names.
    """
    missing = StoreError(f"{objects.uri_of(entry.path)} is missing; `cliploom verify` lists all damage.")
    if objects.root is not None:
        path = objects.root / entry.path
        if not path.is_file():
            raise missing
        return path
    folder = private_folder("files")
    path = folder / f"{entry.digest}{PurePosixPath(entry.path).suffix}"
    if path.exists():
        os.utime(path)
        return path
    try:
        with arriving(path) as local:
            objects.download(entry.path, local)
            if digest_file(local, like=entry.digest) != entry.digest:
                raise StoreError(f"{objects.uri_of(entry.path)} is damaged; `cliploom verify` lists all damage.")
    except FileNotFoundError:
        raise missing from None
    evict(folder, path, limit)
    return path

"""A bounded local cache of a bucket's immutable files, by digest; files of local stores are used in place."""

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
    """Return a local path with the bytes of a file that a release names.

    A downloaded file is checked against its digest once. Readers that have a file open or mapped can continue to read
    it after it was evicted.

    Args:
        objects: the store.
        entry: the file.
        limit: maximum size of the cache in bytes; least recently used files are evicted first.

    Raises:
        StoreError: if the file is missing or does not match its digest.
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

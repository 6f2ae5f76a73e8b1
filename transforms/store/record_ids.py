"""The ids of a part's records, as 8-byte hashes in its footer: who looks for repeated ids reads footers, not rows.

Eight bytes an id keep 8 million of them in 64 MB; two ids that share a hash are told apart by the rows themselves.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cliploom.schemas.records import ORDINAL_BITS

ID_FOOTER = b"cliploom.ids"
_HASH = np.dtype("<i8")

ItemIds = dict[int, NDArray[np.int64]]
"""By item number the hashes of its records' ids, int64 [N]; a hash may stand there twice."""


def hash_ids(ids: Iterable[str]) -> NDArray[np.int64]:
    """Hashes of ids, int64 [N].

    >>> hash_ids(["Bsxe", "i9LI"]).tolist()
    [2841617844509405717, 3241403231830492038]
    """
    digests = b"".join(hashlib.blake2b(each.encode(), digest_size=8).digest() for each in ids)
    return np.frombuffer(digests, _HASH)


def ids_of_rows(rows: pa.Table) -> ItemIds:
    """The ids in feature rows (``row_id``, ``uid``); records without an id are left out."""
    items = rows["row_id"].to_numpy() >> ORDINAL_BITS
    found = {}
    for item_no in np.unique(items).tolist():
        mine = rows["uid"] if items[0] == items[-1] == item_no else rows["uid"].filter(pa.array(items == item_no))
        found[item_no] = hash_ids(uid for uid in pc.unique(mine).to_pylist() if uid)
    return found


def joined(blocks: Iterable[ItemIds]) -> ItemIds:
    """The ids of all blocks."""
    gathered: dict[int, list[NDArray[np.int64]]] = {}
    for block in blocks:
        for item_no, hashes in block.items():
            gathered.setdefault(item_no, []).append(hashes)
    return {item_no: np.concatenate(hashes) for item_no, hashes in gathered.items()}


def pack_ids(ids: ItemIds) -> bytes:
    """As text for a footer."""
    packed = {str(item): base64.b64encode(hashes.astype(_HASH).tobytes()).decode() for item, hashes in ids.items()}
    return json.dumps(packed, separators=(",", ":")).encode()


def unpack_ids(text: bytes) -> ItemIds:
    """Read back what ``pack_ids`` gave.

    Raises:
        ValueError: for anything else.
    """
    try:
        packed = json.loads(text)
        return {
            int(item): np.frombuffer(base64.b64decode(value, validate=True), _HASH).astype(np.int64)
            for item, value in packed.items()
        }
    except (binascii.Error, AttributeError, TypeError) as error:
        raise ValueError(f"no ids of records: {error}") from None

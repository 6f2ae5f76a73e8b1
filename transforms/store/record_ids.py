"""The ids of a part's records, as 8-byte hashes in its footer, so that repeated ids are found without reading rows.

At eight bytes per id, 8 million ids take 64 MB. Two ids with the same hash are distinguished by the rows themselves.
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
"""Item number -> hashes of its records' ids, int64 [N]; hashes may repeat."""


def hash_ids(ids: Iterable[str]) -> NDArray[np.int64]:
    """Return the hashes of ids, int64 [N].

    >>> hash_ids(["Bsxe", "i9LI"]).tolist()
    [2841617844509405717, 3241403231830492038]
    """
    digests = b"".join(hashlib.blake2b(each.encode(), digest_size=8).digest() for each in ids)
    return np.frombuffer(digests, _HASH)


def ids_of_rows(rows: pa.Table) -> ItemIds:
    """Return the id hashes of feature rows (``row_id``, ``uid``), without records that have no id."""
    items = rows["row_id"].to_numpy() >> ORDINAL_BITS
    found = {}
    for item_no in np.unique(items).tolist():
        mine = rows["uid"] if items[0] == items[-1] == item_no else rows["uid"].filter(pa.array(items == item_no))
        found[item_no] = hash_ids(uid for uid in pc.unique(mine).to_pylist() if uid)
    return found


def joined(blocks: Iterable[ItemIds]) -> ItemIds:
    """Merge the ids of all blocks."""
    gathered: dict[int, list[NDArray[np.int64]]] = {}
    for block in blocks:
        for item_no, hashes in block.items():
            gathered.setdefault(item_no, []).append(hashes)
    return {item_no: np.concatenate(hashes) for item_no, hashes in gathered.items()}


def pack_ids(ids: ItemIds) -> bytes:
    """Encode as a string for a footer."""
    packed = {str(item): base64.b64encode(hashes.astype(_HASH).tobytes()).decode() for item, hashes in ids.items()}
    return json.dumps(packed, separators=(",", ":")).encode()


def unpack_ids(text: bytes) -> ItemIds:
    """Decode the output of ``pack_ids``.

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

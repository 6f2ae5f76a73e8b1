"""Where things lie in a store that several steps must agree on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from cliploom.schemas.digests import digest_of
from cliploom.schemas.media import PROBE_REVISION, MediaLimits

TO_PROBE = ("source", "uid", "uri", "signature", "kind", "attempts")
ALIKE = "alike"
"""A further column of what is to be probed: digests and facts of known inputs whose bytes these may be."""


def probe_results_path(batch: Iterable[Sequence[str | int]], limits: MediaLimits) -> str:
    """The file with the probe results of a batch of inputs, named by what was probed.

    Args:
        batch: the columns ``TO_PROBE`` of each input; ``attempts`` gives every night's try a name of its own.
        limits: beyond which an input is refused.
    """
    return f"probes/{digest_of([[list(row) for row in batch], asdict(limits), PROBE_REVISION])}.parquet"

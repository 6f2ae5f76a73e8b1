"""Paths in a store that several steps share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from cliploom.schemas.digests import digest_of
from cliploom.schemas.media import PROBE_REVISION, MediaLimits

TO_PROBE = ("source", "uid", "uri", "signature", "kind", "attempts")
ALIKE = "alike"
"""Column of inputs to probe: digests and facts of known inputs that may have the same bytes."""


def probe_results_path(batch: Iterable[Sequence[str | int]], limits: MediaLimits) -> str:
    """Return the path of a batch's probe results, named by what was probed.

    Args:
        batch: the columns ``TO_PROBE`` of each input; ``attempts`` gives each retry another name.
        limits: limits beyond which an input is refused.
    """
    return f"probes/{digest_of([[list(row) for row in batch], asdict(limits), PROBE_REVISION])}.parquet"

"""Where things lie in a store that several steps must agree on."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.digests import digest_of


def probe_results_path(uris: Sequence[str], signatures: Sequence[str]) -> str:
    """The file with the probe results of a batch of inputs, named by what was probed."""
    return f"probes/{digest_of([list(pair) for pair in zip(uris, signatures, strict=True)])}.parquet"

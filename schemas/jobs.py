"""What a worker needs to know of a run, beside the shards: the same for every shard, small, JSON-able."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.media import MediaLimits
from schemas.models import ModelCard
from schemas.sampling import Sampling


@dataclass(frozen=True)
class FeatureJob:
    """How one feature is computed and where its parts go.

    Attributes:
        config: config digest; ``table`` is the folder of its Delta table, relative to the store.
        model: folder of the prepared model, relative to the store.
        outputs: the wanted outputs' names and vector lengths.
        sampling: None for sources that are not sampled.
        stereo: ``left`` keeps the left half of each picture.
    """

    name: str
    source: str
    config: str
    table: str
    model: str
    card: ModelCard
    outputs: dict[str, int]
    sampling: Sampling | None = None
    stereo: str = ""


@dataclass(frozen=True)
class RunJob:
    """One execution: where it writes, what it computes.

    Attributes:
        store: URI of the store.
        run: id of the run.
        features: by name.
        threads: worker threads that share a process and its compiled models.
        progress: local file that workers append progress lines to, or empty.
    """

    store: str
    run: str
    features: dict[str, FeatureJob]
    media_limits: MediaLimits
    threads: int = 1
    progress: str = ""

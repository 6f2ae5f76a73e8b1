"""What a worker needs to know of a run, beside the shards: the same for every shard, small, JSON-able."""

from __future__ import annotations

from dataclasses import dataclass, field

from cliploom.schemas.media import MediaLimits
from cliploom.schemas.models import ModelCard
from cliploom.schemas.release import OutputEntry, text_columns
from cliploom.schemas.sampling import Sampling
from cliploom.schemas.sources import HttpSpec


@dataclass(frozen=True)
class FeatureJob:
    """How one feature is computed and where its parts go.

    Attributes:
        kind: of the source: ``media``, ...; decides how items become samples.
        settings: JSON text of the source's node in the spec, for what its kind needs to know.
        config: config digest; ``table`` is the folder of its Delta table, relative to the store.
        model: folder of the prepared model, relative to the store.
        model: empty, and ``card`` None, for sources that bring vectors of their own.
        outputs: the wanted outputs' names and vector lengths.
        sampling: None for sources that are not sampled.
        compact: outputs kept as 8-bit codes in a binary column.
        texts: columns of texts beside the outputs.
        types: of outputs that records hold otherwise than as floats: ``int64`` or ``uint8``.
        records: rows are of an item's records: they have uids of their own, and a column ``labels``.
    """

    name: str
    source: str
    kind: str
    settings: str
    config: str
    table: str
    model: str
    card: ModelCard | None
    outputs: dict[str, int]
    sampling: Sampling | None = None
    compact: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    types: dict[str, str] = field(default_factory=dict)
    records: bool = False

    @property
    def columns(self) -> dict[str, OutputEntry]:
        """What heads can read: the outputs, and texts as columns of width 0."""
        return {output: self.entry_of(output) for output in self.outputs} | text_columns(self.source, self.texts)

    def entry_of(self, output: str) -> OutputEntry:
        """What a release says of an output; vectors that a source brought are a space of their own."""
        if self.card is None:
            kind = self.types.get(output, "float32")
            return OutputEntry(dim=self.outputs[output], space=f"{self.source}.{output}", type=kind)
        found = self.card.outputs[output]
        return OutputEntry(dim=self.outputs[output], space=found.space, text=found.text, labels=found.labels)


@dataclass(frozen=True)
class RunJob:
    """One execution: where it writes, what it computes.

    Attributes:
        store: URI of the store.
        run: id of the run.
        features: by name.
        threads: worker threads that share a process and its compiled models.
        progress: local file that workers append progress lines to, or empty.
        http: by source, how its files at http(s) addresses are fetched.
        stall_s: seconds that an item may make no progress.
    """

    store: str
    run: str
    features: dict[str, FeatureJob]
    media_limits: MediaLimits
    threads: int = 1
    progress: str = ""
    http: dict[str, HttpSpec] = field(default_factory=dict)
    stall_s: float = 600.0

"""Settings of a run that workers need besides the shards: small, JSON-able, and the same for every shard."""

from __future__ import annotations

from dataclasses import dataclass, field

from cliploom.schemas.devices import DeviceJob
from cliploom.schemas.media import MediaLimits
from cliploom.schemas.models import ModelCard
from cliploom.schemas.release import OutputEntry, text_columns
from cliploom.schemas.sampling import Sampling


@dataclass(frozen=True)
class FeatureJob:
    """How one feature is computed, and where its parts are stored.

    Attributes:
        kind: kind of the source (``media``, ...); decides how items become samples.
        settings: JSON of the source's node in the spec, for settings of its kind.
        config: config digest; ``table`` is the folder of its Delta table, relative to the store.
        model: folder of the prepared model, relative to the store; empty, and ``card`` None, for sources that bring
            their own vectors.
        outputs: names and vector lengths of the requested outputs.
        sampling: None for sources that are not sampled.
        compact: outputs kept as 8-bit codes in a binary column.
        texts: string columns besides the outputs.
        types: types of outputs that records do not store as floats: ``int64`` or ``uint8``.
        device: where workers have another device to compute on than the processor; None for the processor.
        records: whether rows belong to records of an item, with their own uids and a column ``labels``.
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
    device: DeviceJob | None = None

    @property
    def columns(self) -> dict[str, OutputEntry]:
        """Return the columns that heads can read: the outputs, and texts with width 0."""
        return {output: self.entry_of(output) for output in self.outputs} | text_columns(self.source, self.texts)

    def entry_of(self, output: str) -> OutputEntry:
        """Return a release's description of an output; vectors that a source brings have a space of their own."""
        if self.card is None:
            kind = self.types.get(output, "float32")
            return OutputEntry(dim=self.outputs[output], space=f"{self.source}.{output}", type=kind)
        found = self.card.outputs[output]
        return OutputEntry(dim=self.outputs[output], space=found.space, text=found.text, labels=found.labels)


@dataclass(frozen=True)
class RunJob:
    """Settings of one run: where it writes and what it computes.

    Attributes:
        store: URI of the store.
        run: id of the run.
        features: jobs by name of the feature.
        threads: worker threads that share a process and its compiled models.
        progress: local file that workers append progress lines to, or empty.
        settings: JSON text of the node of each source whose items are probed, by source.
        stall_s: seconds without progress after which an item is given up.
        deadline: no work on a shard begins after this time, in seconds since 1970; 0 for no limit.
        remote: workers are on other machines, and tell what they do by heartbeats only.
        log_format: ``json`` when workers write what they do as JSON lines to stderr.
    """

    store: str
    run: str
    features: dict[str, FeatureJob]
    media_limits: MediaLimits
    threads: int = 1
    progress: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    stall_s: float = 600.0
    deadline: float = 0.0
    remote: bool = False
    log_format: str = ""

"""Prepared models of Beam pipelines on workers, opened once a process."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam

from cliploom.schemas.errors import StoreError
from cliploom.schemas.jobs import FeatureJob, RunJob
from cliploom.schemas.media import MediaLimits
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.models import SampleEncoder, SentenceEncoder, load_encoder, memory_of


@dataclass(frozen=True)
class ModelRef:
    """Where workers find a prepared model, and how they use it.

    Attributes:
        job: encoder, outputs, sampling and settings.
        place: folder or bucket prefix that holds ``models/<digest>/``.
        threads: threads of a worker process that use the model at the same time.
        hints: give the runner the memory that a worker needs as a resource hint.
    """

    job: FeatureJob
    place: str
    threads: int = 1
    hints: bool = False

    def open(self) -> SampleEncoder | SentenceEncoder:
        """Return the encoder; all threads of a process share one model.

        Raises:
            StoreError: if this machine cannot read the model.
        """
        objects = ObjectStore(self.place)
        if objects.root is not None and not (objects.root / self.job.model / "card.json").exists():
            raise StoreError(
                f"The prepared model {objects.root / self.job.model} is not on this worker; give the transform "
                "`models`, a folder or bucket that the launcher writes and all workers read."
            )
        return load_encoder(objects, self.job, self.threads)

    def hinted(self, step: beam.ParDo) -> beam.ParDo:
        """Return the step with resource hints, if the runner chooses machines by them."""
        if not self.hints:
            return step
        run = RunJob(self.place, "", {self.job.name: self.job}, MediaLimits(), self.threads)
        return step.with_resource_hints(min_ram=f"{memory_of(ObjectStore(self.place), run) / 2**30:.1f}GiB")

"""The state that all requests share: the served stores, lanes, job queue, thumbnails and metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cliploom.schemas.errors import CliploomError
from cliploom.serving.catalog import Catalog, ServedRelease
from cliploom.serving.conversions import Conversions
from cliploom.serving.jobs import JobQueue
from cliploom.serving.lanes import Lane
from cliploom.serving.settings import ServeSettings
from cliploom.serving.telemetry import Gauge, RequestMetrics
from cliploom.serving.worker import heads_of
from cliploom.transforms.search.thumbnails import ThumbnailCache

_KEPT_S = 2.0


class ServerState:
    """The shared state, created once when the server starts."""

    def __init__(self, catalog: Catalog, settings: ServeSettings) -> None:
        self.catalog = catalog
        self.settings = settings
        self.metrics = RequestMetrics()
        self.jobs = JobQueue(settings)
        self.conversions = Conversions(settings.conversion)
        self.thumbnails = ThumbnailCache(None, settings.thumbnail_bytes)
        self.searches = Lane("searches", settings.searches, settings.waiting)
        self.pictures = Lane("thumbnails", settings.searches, 4 * settings.waiting)
        self.streams = Lane("media files", settings.streams, 0)
        self.uploads = Lane("uploads", 4, 0)
        self.listings = Lane("listings", 2, settings.waiting)
        self.listeners = Lane("status lines", 32, 0)
        self._kept: dict[tuple[str, str], tuple[float, Any]] = {}

    def close(self) -> None:
        """Stop the threads and the worker process."""
        self.catalog.close()
        self.jobs.close()
        self.conversions.close()

    def runs(self, slot: ServedRelease) -> dict[str, Any]:
        """Return the progress of a store's newest run, and the runs that published; read at most every two seconds."""

        def look() -> dict[str, Any]:
            from cliploom.pipelines.running.status import run_status  # imports Beam, which searches do not need

            try:
                found: dict[str, Any] | None = asdict(run_status(slot.store.uri))
            except (CliploomError, OSError, ValueError, KeyError):
                found = None
            return {"newest": found, "store": slot.name}

        return self._recent("runs", slot, look)  # type: ignore[no-any-return]

    def heads(self, slot: ServedRelease) -> list[str]:
        """Return the names of the heads that can predict labels."""
        return self._recent("heads", slot, lambda: heads_of(slot.store.objects))  # type: ignore[no-any-return]

    def _recent(self, kind: str, slot: ServedRelease, look: Any) -> Any:
        key = kind, slot.name
        found = self._kept.get(key)
        if found is None or time.monotonic() - found[0] > _KEPT_S:
            found = self._kept[key] = time.monotonic(), look()
        return found[1]

    def gauges(self) -> Iterator[Gauge]:
        """Yield gauges in addition to the request metrics."""
        for name, slot in self.catalog.slots.items():
            labels = {"store": name}
            yield "cliploom_serve_release", "Release that is being served.", labels, slot.store.release.release
        for name, slot in self.catalog.slots.items():
            text = "Whether the last check for a new release succeeded."
            yield "cliploom_serve_refresh_ok", text, {"store": name}, float(not slot.trouble)
        for lane in (self.searches, self.pictures, self.streams, self.uploads, self.listings):
            yield "cliploom_serve_busy", "Running requests by kind.", {"kind": lane.name}, lane.busy
        yield "cliploom_serve_jobs", "Waiting and running jobs of the worker process.", {}, self.jobs.length
        yield "cliploom_serve_conversions", "Waiting and running conversions of videos.", {}, self.conversions.length
        yield "cliploom_serve_start_time_seconds", "Start time in seconds since 1970.", {}, self.metrics.started_at

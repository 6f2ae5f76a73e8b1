"""Browser-compatible copies of videos: converted one at a time and kept in a cache of bounded size."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
import time
from collections import OrderedDict, deque
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import CliploomError, ItemError
from cliploom.serving.lanes import BusyError
from cliploom.serving.playback import ConversionLimits, conversion_of
from cliploom.serving.telemetry import LOGGER
from cliploom.transforms.python_child import python_command
from cliploom.transforms.readers.release_tables import ReleaseReader
from cliploom.transforms.search.thumbnails import (
    MediaItem,
    MissingMediaError,
    check_local,
    is_local_file,
    local_copy,
)
from cliploom.transforms.store.local_folder import arriving, evict, private_folder
from cliploom.transforms.store.uris import uri_to_path

REVISION = 1
"""Increase it when conversions produce different files; part of the names in the cache."""
_LOG = logging.getLogger(LOGGER)
_KEPT = 200
_KEPT_FAILURE_S = 600.0


@dataclass
class Conversion:
    """The conversion of one video.

    Attributes:
        name: the name of the file in the cache.
        state: the state of the conversion.
        share: the completed fraction, 0 to 1.
        message: the reason of a failure, shown to users.
    """

    name: str
    store: ReleaseReader
    media: MediaItem
    state: Literal["waiting", "running", "ready", "failed"] = "waiting"
    share: float = 0.0
    message: str = ""
    ended_at: float = 0.0

    @property
    def is_ended(self) -> bool:
        """Whether the conversion succeeded or failed."""
        return self.state in ("ready", "failed")


class Conversions:
    """Converts videos in the order of their requests; a video in the cache is not converted again."""

    def __init__(self, limits: ConversionLimits, folder: Path | None = None) -> None:
        """Create the queue; nothing starts before the first request.

        Args:
            limits: the limits of each conversion, and of all together.
            folder: the folder of converted files; by default this user's in the machine's temporary folder.
        """
        self.limits = limits
        self._folder = folder
        self._known: OrderedDict[str, Conversion] = OrderedDict()
        self._waiting: deque[Conversion] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._children: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    @property
    def length(self) -> int:
        """The number of waiting and running conversions."""
        with self._changed:
            return sum(not each.is_ended for each in self._known.values())

    def request(self, store: ReleaseReader, media: MediaItem) -> Conversion:
        """Return the conversion of an item; start it if there is neither a copy nor a running conversion.

        Raises:
            BusyError: too many conversions are waiting.
            MissingMediaError: the item's file was deleted or has changed.
        """
        if is_local_file(store, media):
            check_local(store, media)
        name = f"{digest_of([REVISION, media.digest or [media.uri, media.signature]])}.mp4"
        refused = conversion_of(media.facts, media.size, self.limits)
        with self._changed:
            found = self._known.get(name)
            if found is not None and not self._is_outdated(found):
                return found
            conversion = Conversion(name, store, media)
            if refused.how == "stills":
                conversion.state, conversion.message = "failed", refused.why
                return conversion
            if self._path(name).exists():
                conversion.state = "ready"
            elif len(self._waiting) >= self.limits.waiting:
                raise BusyError(f"{len(self._waiting)} videos are waiting for conversion; try again in a minute.")
            else:
                self._waiting.append(conversion)
                self._start()
            self._known[name] = conversion
            while len(self._known) > _KEPT and next(iter(self._known.values())).is_ended:
                self._known.popitem(last=False)
            self._changed.notify()
        return conversion

    def open(self, conversion: Conversion) -> BinaryIO:
        """Open a converted file.

        Raises:
            MissingMediaError: the conversion failed, or its file was deleted meanwhile.
        """
        if conversion.state != "ready":
            raise MissingMediaError(conversion.message or "The video is not converted yet.")
        path = self._path(conversion.name)
        try:
            file = path.open("rb")
            os.utime(path)
        except OSError as error:
            raise MissingMediaError(f"The converted copy cannot be read: {error.strerror}.") from None
        return file

    def close(self) -> None:
        """Stop the running conversion."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            children = list(self._children)
            self._changed.notify_all()
        for child in children:
            child.kill()
        for thread in self._threads:
            thread.join(timeout=5)

    def _is_outdated(self, conversion: Conversion) -> bool:
        """Whether to convert again: the copy was removed from the cache, or the conversion failed some time ago."""
        if conversion.state == "ready":
            return not self._path(conversion.name).exists()
        return conversion.state == "failed" and time.monotonic() - conversion.ended_at > _KEPT_FAILURE_S

    def _path(self, name: str) -> Path:
        if self._folder is None:
            return private_folder("converted") / name
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / name

    def _start(self) -> None:
        if not self._threads:
            for number in range(self.limits.running):
                thread = threading.Thread(target=self._work, name=f"conversions-{number}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                conversion = self._waiting.popleft()
                conversion.state = "running"
            message = self._made(conversion)
            if message:
                _LOG.info("conversion", extra={"fields": {"uid": conversion.media.uid[:300], "error": message}})
            with self._changed:
                conversion.ended_at = time.monotonic()
                conversion.message = message
                conversion.state = "failed" if message else "ready"
                self._changed.notify_all()

    def _made(self, conversion: Conversion) -> str:
        """Convert a video; return the reason of a failure, or an empty string."""
        media, target = conversion.media, self._path(conversion.name)
        try:
            with ExitStack() as stack:
                local_file = is_local_file(conversion.store, media)
                if not local_file:
                    source = stack.enter_context(local_copy(conversion.store, media, "convert"))
                else:
                    source = uri_to_path(media.uri)
                local = stack.enter_context(arriving(target))
                message = self._run(conversion, source, local)
                if message:
                    # Delete an incomplete file.
                    raise _FailedError(message)
                if local_file:
                    check_local(conversion.store, media)
            evict(target.parent, target, self.limits.cache_bytes)
        except _FailedError as error:
            return str(error)
        except (CliploomError, ItemError, OSError) as error:
            _LOG.info("conversion", extra={"fields": {"error": str(error)}})
            return "The file was deleted, has changed, or cannot be read."
        return ""

    def _run(self, conversion: Conversion, source: Path, target: Path) -> str:
        request = {
            "source": str(source),
            "target": str(target),
            "facts": asdict(conversion.media.facts),
            "limits": asdict(self.limits),
            "parent": os.getpid(),
        }
        late = threading.Event()
        command = python_command("cliploom.serving.converting", json.dumps(request))
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:

            def stop() -> None:
                late.set()
                child.kill()

            clock = threading.Timer(self.limits.seconds, stop)
            clock.daemon = True
            with self._changed:
                self._children.add(child)
                if self._closed:
                    child.kill()
            clock.start()
            last: dict[str, object] = {}
            try:
                for line in child.stdout or ():
                    last = json.loads(line)
                    if "share" in last:
                        conversion.share = float(str(last["share"]))
            except ValueError:
                child.kill()
            finally:
                clock.cancel()
                child.wait()
                with self._changed:
                    self._children.discard(child)
        if late.is_set():
            return f"Its conversion exceeded {self.limits.seconds:g} s; stills are shown."
        if "error" in last:
            return str(last["error"]).replace(str(source), conversion.media.uid).replace(source.name, "the file")
        return "" if "done" in last else "The conversion process crashed; the file may be damaged."


class _FailedError(Exception):
    """A conversion failed; the message is shown to users."""

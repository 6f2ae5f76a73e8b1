"""Requests at a steady rate while releases are published: what fails or mixes two, and how soon a new one answers.

Every night adds one item, ``night-1``, ``night-2`` and so on, with a sentence that nothing else resembles. An answer
names its release, so the items of the nights that it shows must be those of that release, no more and no fewer.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

MARK = "a lighthouse keeper counts seventeen green umbrellas"
SWAP_S = 5.0
_TIMEOUT_S = 60.0
_NO_ITEM = re.compile(r"Release (\d+) has no item")


@dataclass(frozen=True)
class Step:
    """Something that publishes a release, or removes files.

    Attributes:
        name: for the report.
        act: does it; called in a thread.
        nights: items of which nights the release that it publishes has; None when it publishes none.
    """

    name: str
    act: Callable[[], None]
    nights: frozenset[str] | None = None


@dataclass
class LoadReport:
    """What became of the requests.

    Attributes:
        taken: milliseconds from the moment at which each request was due to its answer.
        problems: requests that failed or were answered wrongly, one sentence each.
        releases: answers by release.
        swaps: seconds from each publication to the first answer from its release, by name of the step.
        late: answers from an old release to requests that were sent more than ``SWAP_S`` after a publication.
        steps: seconds that each step took.
    """

    taken: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    releases: Counter[int] = field(default_factory=Counter)
    swaps: dict[str, float] = field(default_factory=dict)
    late: int = 0
    steps: dict[str, float] = field(default_factory=dict)


class Load:
    """Requests at a steady rate beside steps that publish."""

    def __init__(
        self, url: str, store: Path, paths: Sequence[str], steps: Sequence[Step], nights: frozenset[str] = frozenset()
    ) -> None:
        """Nothing is asked yet.

        Args:
            url: the url of the server.
            store: the store that it serves, a folder on this machine.
            paths: further addresses to ask for, one after the other.
            steps: what happens meanwhile, in this order.
            nights: items of nights that the newest release has already.
        """
        self._url = url
        self._store = store
        self._steps = steps
        self._contents: dict[int, frozenset[str]] = {self._newest(): nights}
        self._published: dict[int, tuple[str, float]] = {}
        self._first: dict[int, float] = {}
        self._done = threading.Event()
        everything = sorted(nights.union(*(step.nights or () for step in steps)))
        self._paths = [f"/api/search?q={MARK.replace(' ', '+')}&top=20", *(f"/api/items/{uid}" for uid in everything)]
        self._paths += paths
        self._answers: list[tuple[float, int]] = []
        self.report = LoadReport()

    def run(self, rate: float, seconds: float) -> LoadReport:
        """Ask ``rate`` times a second, for ``seconds`` and until the last step has ended."""
        thread = threading.Thread(target=self._act)
        thread.start()
        asyncio.run(self._ask(rate, seconds))
        thread.join()
        for number, (name, at) in self._published.items():
            if number in self._first:
                self.report.swaps[name] = max(0.0, self._first[number] - at)
            else:
                self.report.problems.append(f"no answer came from release {number} ({name})")
            self.report.late += sum(sent > at + SWAP_S and release < number for sent, release in self._answers)
        return self.report

    def _act(self) -> None:
        try:
            for step in self._steps:
                begun = time.time()
                # What the release will have is known before it is there, as answers may come from it at once.
                if step.nights is not None:
                    self._contents[self._newest() + 1] = step.nights
                step.act()
                self.report.steps[step.name] = time.time() - begun
                if step.nights is not None:
                    self._published[self._newest()] = step.name, self._published_at()
                    self._wait_for_answers(self._newest())
        except Exception as error:
            self.report.problems.append(f"{type(error).__name__}: {error}")
        finally:
            self._done.set()

    def _wait_for_answers(self, release: int) -> None:
        """Until a release has answered; the next step must not replace it before."""
        deadline = time.time() + 12 * SWAP_S
        while release not in self._first and time.time() < deadline:
            time.sleep(0.05)

    def _log(self) -> list[Path]:
        return sorted((self._store / "releases" / "_delta_log").glob("*.json"))

    def _newest(self) -> int:
        import cliploom

        return int(cliploom.open(self._store).release.release)

    def _published_at(self) -> float:
        return max(path.stat().st_mtime for path in self._log())

    async def _ask(self, rate: float, seconds: float) -> None:
        begun = time.time()
        pending: set[asyncio.Task[None]] = set()
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
        async with httpx.AsyncClient(base_url=self._url, timeout=_TIMEOUT_S, limits=limits) as client:
            number = 0
            while time.time() - begun < seconds or not self._done.is_set():
                due = begun + number / rate
                await asyncio.sleep(max(0.0, due - time.time()))
                task = asyncio.create_task(self._one(client, self._paths[number % len(self._paths)], due))
                pending.add(task)
                task.add_done_callback(pending.discard)
                number += 1
            await asyncio.gather(*pending)

    async def _one(self, client: httpx.AsyncClient, path: str, due: float) -> None:
        try:
            answer = await client.get(path)
        except httpx.HTTPError as error:
            self.report.problems.append(f"{path}: {type(error).__name__} {error}")
            return
        now = time.time()
        self.report.taken.append(1000 * (now - due))
        trouble = self._check(path, answer, due, now)
        if trouble:
            self.report.problems.append(f"{path}: {trouble}")

    def _check(self, path: str, answer: httpx.Response, sent: float, now: float) -> str:
        """What is wrong with an answer; empty when nothing is."""
        missing = _NO_ITEM.search(answer.text) if answer.status_code == 404 else None
        if answer.status_code not in (200, 206) and missing is None:
            return f"{answer.status_code} {answer.text[:200]}"
        if not path.startswith(("/api/search", "/api/items", "/api/curve", "/api/failures")):
            return ""
        found = {} if missing else answer.json()
        release = int(missing[1]) if missing else found["release"]
        self._answers.append((sent, release))
        self.report.releases[release] += 1
        self._first.setdefault(release, now)
        expected = self._contents.get(release)
        if expected is None:
            return f"there is no release {release} yet"
        mixed = {hit["release"] for hit in found.get("hits", ())} - {release}
        if mixed:
            return f"hits of {sorted(mixed)} in an answer of release {release}"
        if path.startswith("/api/items/night-") and (path.removeprefix("/api/items/") in expected) != (missing is None):
            return f"release {release} {'lacks' if missing else 'has'} it, and should not"
        if path == self._paths[0]:
            shown = {hit["uid"] for hit in found["hits"] if hit["uid"].startswith("night-")}
            if shown != expected:
                return f"release {release} shows {sorted(shown)}, not {sorted(expected)}"
        return ""

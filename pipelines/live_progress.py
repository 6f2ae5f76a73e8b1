"""Progress of a run on the terminal, with rich; plain lines if there is no terminal."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from cliploom.pipelines.console import clock, counted, logs_json, middle, say, visible
from cliploom.transforms.work.progress import ProgressTally

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY_S = 10.0
_SHOWN_EVERY_S = 0.2
_SEEN_EVERY_S = 1.0
_LEAST_WINDOW_S = 10.0
_SURE = 0.01
"""Completed share of the work from which on the remaining time is shown."""


class Pace:
    """The completed share of a run's work, and the remaining time, from the estimated work of each item.

    The cost of an hour of video is known before it is decoded, so the remaining time does not jump when it starts. The
    rate is that of the last half of the elapsed time, since fewer workers may be busy with the last long file.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._began = 0.0
        self._left: float | None = None

    def update(self, tally: ProgressTally, now: float) -> tuple[float, float | None]:
        """Return the completed share, 0 to 1, and the remaining seconds, None if unknown.

        Args:
            tally: the completed work.
            now: the seconds on a monotonic clock.
        """
        done_ms = tally.cost_ms - tally.adopted_ms
        to_do_ms = max(1, tally.total_ms - tally.adopted_ms)
        share = min(1.0, tally.cost_ms / tally.total_ms) if tally.total_ms else 0.0
        if done_ms <= 0:
            return share, None  # models are being loaded
        if not self._seen:
            self._began = now
        if not self._seen or now - self._seen[-1][0] >= _SEEN_EVERY_S:
            self._seen.append((now, done_ms))
        window = max(_LEAST_WINDOW_S, (now - self._began) / 2)
        while len(self._seen) > 1 and self._seen[1][0] <= now - window:
            self._seen.popleft()
        since, then_ms = self._seen[0]
        if now > since and done_ms > then_ms and done_ms / to_do_ms >= _SURE:
            self._left = max(0.0, (to_do_ms - done_ms) * (now - since) / (done_ms - then_ms))
        return share, self._left


class LiveProgress:
    """Prints stages, and during computation a bar with counts, the remaining time and the current file."""

    def __init__(self) -> None:
        from rich.console import Console

        # rich takes its width from COLUMNS, and disables colours if NO_COLOR is set.
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal and not logs_json()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._pace = Pace()
        self._stage_began = self._last = time.monotonic()
        self._stage = ""
        self._line = ""

    def begin(self) -> None:
        """Show activity until the first stage starts."""
        if self._live:
            self._start()

    def on_stage(self, text: str) -> None:
        """Show that a stage starts."""
        self.close()
        self._stage = text.partition(" ")[0]
        say(f"• {text}", event="stage", stage=self._stage)
        self._stage_began = self._last = time.monotonic()
        if self._live:
            self._start()

    def tick(self, tally: ProgressTally) -> None:
        """Show the tally if enough time has passed."""
        now = time.monotonic()
        if now - self._last < (_SHOWN_EVERY_S if self._live else PLAIN_EVERY_S):
            return
        self._last = now
        share, left = self._pace.update(tally, now)
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=share if self._computing(tally) else None,
                total=1.0 if self._computing(tally) else None,
                said=self._describe(tally, left),
                at=middle(visible(self._at(tally)), max(10, self._console.width - 4)),
            )
        elif tally.total_items:
            at = visible(self._at(tally))
            line = f"  {share:.0%}, {self._describe(tally, left)}{f', at {at}' if at else ''}"
            # Nothing changes while parts are gathered; do not repeat the same line.
            if line != self._line:
                say(line, event="progress", stage=self._stage, item=self._at(tally), rows=tally.rows, items=tally.items)
            self._line = line

    def _computing(self, tally: ProgressTally) -> bool:
        return self._stage == "computing" and tally.total_items > 0

    def _describe(self, tally: ProgressTally, left: float | None) -> str:
        if not tally.total_items:
            return ""
        said = [
            f"{min(tally.items, tally.total_items):,}/{counted(tally.total_items, 'item')}",
            counted(tally.rows, "row"),
        ]
        if tally.failures:
            said.append(f"{tally.failures:,} failed")
        if tally.items >= tally.total_items:
            said.append("finishing")
        elif left is not None:
            said.append(f"{clock(round(left))} left")
        return ", ".join(said)

    def _at(self, tally: ProgressTally) -> str:
        """Return the item that has been processed the longest."""
        return next(iter(tally.at), "") if self._computing(tally) else ""

    def _start(self) -> None:
        from cliploom.pipelines.live_bar import make_bar

        self._bar = make_bar(self._console)
        self._task = self._bar.add_task("", total=None, said="", at="")
        self._bar.start()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

"""How many requests of a kind are worked on at a time, and how many may wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

T = TypeVar("T")


class BusyError(Exception):
    """Too many requests of a kind are under way; the message says of which."""


class Lane:
    """A number of threads and a bounded queue before them."""

    def __init__(self, name: str, running: int, waiting: int) -> None:
        """Start nothing yet.

        Args:
            name: of what is done, for messages.
            running: how many at a time.
            waiting: how many more may wait; one more is refused.
        """
        self.name = name
        self.busy = 0
        self.limiter = anyio.CapacityLimiter(running)
        self._most = running + waiting

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place in the lane.

        Raises:
            BusyError: when none is free.
        """
        if self.busy >= self._most:
            raise BusyError(f"{self.busy} {self.name} are under way; try again in a moment.")
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in one of the lane's threads.

        Raises:
            BusyError: when too many wait already.
        """
        async with self.place():
            return await anyio.to_thread.run_sync(function, limiter=self.limiter)

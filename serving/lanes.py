"""Limits on concurrent and waiting requests per kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

T = TypeVar("T")


class BusyError(Exception):
    """Too many requests of one kind are running; the message names the kind."""


class Lane:
    """A thread pool with a bounded queue."""

    def __init__(self, name: str, running: int, waiting: int) -> None:
        """Create the lane; threads start on demand.

        Args:
            name: the kind of work, for messages.
            running: the number of concurrent calls.
            waiting: the number of calls that may wait; further ones are rejected.
        """
        self.name = name
        self.busy = 0
        self.limiter = anyio.CapacityLimiter(running)
        self._most = running + waiting

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Occupy a place in the lane.

        Raises:
            BusyError: no place is free.
        """
        if self.busy >= self._most:
            raise BusyError(f"{self.busy} {self.name} are running; try again in a moment.")
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in one of the lane's threads.

        Raises:
            BusyError: too many calls are waiting.
        """
        async with self.place():
            return await anyio.to_thread.run_sync(function, limiter=self.limiter)

"""A worker process of a local run with ``processes: true``: serves the runner that started it, and ends with it."""

from __future__ import annotations

import gc
import logging
import os
import sys

from cliploom.transforms.work.inflight import watch_parent


def main(arguments: list[str]) -> None:
    """``python -m cliploom.pipelines.running.local_worker PARENT_PID``; settings are in the environment."""
    gc.disable()
    logging.getLogger().setLevel(logging.ERROR)
    watch_parent(int(arguments[0]))
    from apache_beam.runners.worker import sdk_worker_main

    gc.freeze()
    gc.enable()
    try:
        sdk_worker_main.main([sys.argv[0]])
    finally:
        sys.stderr.flush()
        # Threads of libraries may wait for the runner, which has gone.
        os._exit(0)

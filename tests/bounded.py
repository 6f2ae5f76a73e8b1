"""Runs a command in its place, bound in one way: ``python bounded.py WAY COMMAND...``.

Not by subprocess's ``preexec_fn``: that forks what gRPC's threads hold, and the child aborts now and then.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP = 1, 24
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root reads and writes what it has no rights to.
_OVERRIDES = (1, 2)


def mortal(command: Sequence[str]) -> list[str]:
    """The command, ended by the kernel with the process that starts it, also after SIGKILL."""
    return [sys.executable, "-I", __file__, "mortal", *command]


def by_rights(command: Sequence[str]) -> list[str]:
    """The command, which files' rights bind, also when root starts it."""
    return [sys.executable, "-I", __file__, "by_rights", *command]


if __name__ == "__main__":
    way, *rest = sys.argv[1:]
    if sys.platform == "linux" and way == "mortal":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if sys.platform == "linux" and way == "by_rights":
        for capability in _OVERRIDES:
            ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.execvp(rest[0], rest)

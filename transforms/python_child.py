"""Starts a module of cliploom in a separate Python process, independent of the working folder's files."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

# The child finds cliploom where this process found it; after this import its submodules follow from its __path__, so #
# the surrounding folder (site-packages, or a checkout with its own tests/) need not precede the standard library.
_START = """
import json, sys
_ = json.loads(sys.argv.pop(1))
sys.path.insert(0, _["root"])
import cliploom
del sys.path[0], json
sys.path += [path for path in _["paths"] if path not in sys.path]
_ = __import__("importlib").import_module(_["module"])
_.main(sys.argv[1:])
"""


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs ``main(arguments)`` of a module of cliploom in a new Python process.

    The process sees neither the working folder nor the folder of the caller's script: a file ``random.py`` there would
    be imported instead of the standard library's. Other entries of ``sys.path`` are appended to the usual ones.

    Args:
        module: the full name of a module with a function ``main(list[str])``.
        arguments: the arguments of its ``main``.
    """
    root = str(Path(str(sys.modules[__name__.partition(".")[0]].__file__)).parent.parent)
    script = getattr(sys.modules["__main__"], "__file__", None)
    hidden = {os.path.realpath(path) for path in (os.getcwd(), os.path.dirname(script) if script else "")}
    paths = [path for path in sys.path if path and os.path.realpath(path) not in hidden]
    start = json.dumps({"root": root, "paths": paths, "module": module})
    return [sys.executable, "-P", "-c", _START, start, *arguments]

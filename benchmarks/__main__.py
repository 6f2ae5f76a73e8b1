"""``python -m benchmarks NAME``: ratios measured in one run against a named rival."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

HELPERS = {
    "corpus",
    "encoder_models",
    "interpreter",
    "measure",
    "narrations_data",
    "peers_features",
    "peers_vectors",
    "process_tree",
    "rivals",
    "serve_load",
    "tfrecords_data",
}


def names() -> list[str]:
    """Return the benchmarks there are."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if not name.startswith("_") and name not in HELPERS)


def main(arguments: list[str]) -> int:
    """Run one benchmark; the rest of the arguments are its own."""
    if not arguments or arguments[0] not in names():
        print(f"python -m benchmarks NAME; names: {', '.join(names())}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

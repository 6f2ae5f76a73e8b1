"""cliploom beside its named peers, each at its own game: Ray Data, Daft, LanceDB.

Rivals run with the interpreter of an environment of their own (``--env``), made for instance with
``uv pip install "ray[data]" daft lancedb av openvino``; one that is not there is said so in a line. CPU seconds, of all
processes, are the figures to go by: wall times depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from benchmarks import peers_features, peers_vectors

PARTS = ("features", "vectors")
NAMES = {"Ray Data": "ray", "Daft": "daft", "LanceDB": "lancedb"}
_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name, package in json.loads(sys.argv[1]).items():
    try:
        found[name] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def versions(python: str) -> dict[str, str]:
    """Rivals that are installed, with their versions."""
    done = subprocess.run([python, "-c", _VERSIONS, json.dumps(NAMES)], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main(arguments: list[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers", description=__doc__)
    parser.add_argument("--env", required=True, help="Python interpreter of the rivals' environment")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rivals", nargs="+", choices=sorted(NAMES), default=sorted(NAMES))
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--lance", default="flat,IVF_PQ,IVF_HNSW_SQ", help="which of LanceDB's indexes")
    options = parser.parse_args(arguments)
    present = {name: version for name, version in versions(options.env).items() if name in options.rivals}
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        for part in options.parts:
            root = Path(name) / part
            root.mkdir()
            if part == "features":
                peers_features.measure(options.env, root, options.clips, present)
            else:
                peers_vectors.measure(options.env, root, options.rows, present, options.lance)
    return 0

"""What a night costs beside the first run: nothing changed, a little changed, one encoder changed, all renamed.

CPU seconds of whole commands. Start-up is taken off each by the same night on a corpus of two clips.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.corpus import write_clips
from benchmarks.measure import Usage, run, table

FEWEST = 2
SPEC: dict[str, Any] = {
    "version": 1,
    "name": "nightly",
    "store": "./store",
    "sources": {"clips": {"kind": "media", "glob": "media/*.mp4"}},
    "encoders": {"lite0": {"kind": "efficientnet_lite0"}, "other": {"kind": "efficientnet_lite0"}},
    "features": {
        "frames": {"source": "clips", "sample": {"every": "1s"}, "encoder": "lite0", "outputs": ["pooled"]},
        "looks": {"source": "clips", "sample": {"every": "2s"}, "encoder": "other", "outputs": ["pooled"]},
    },
    "indexes": {"frames": {"feature": "frames"}},
    "exports": {"h5": {"kind": "hdf5", "feature": "frames"}},
    "limits": {"max_deleted": "100%"},
}


@dataclass(frozen=True)
class Corpus:
    """A project folder with so many clips."""

    folder: Path
    clips: int

    @property
    def media(self) -> list[Path]:
        """The clips there are."""
        return sorted((self.folder / "media").iterdir())

    def share(self, part: float, skip: int = 0) -> list[Path]:
        """That part of the clips, one at least, spread over the corpus; ``skip`` makes it others."""
        count = max(1, round(self.clips * part))
        return self.media[skip :: max(1, self.clips // count)][:count]

    def write_spec(self, **changes: Any) -> None:
        """The spec, with whole sections replaced."""
        (self.folder / "cliploom.yaml").write_text(yaml.safe_dump(SPEC | changes), encoding="utf-8")

    def run(self) -> Usage:
        """``cliploom run``."""
        return run([sys.executable, "-m", "cliploom", "run", str(self.folder / "cliploom.yaml"), "--json"])


def nights(root: Path, clips: int) -> dict[str, Usage]:
    """Every night in turn, on a corpus of so many clips."""
    corpus = Corpus(root / f"corpus-{clips}", clips)
    write_clips(corpus.folder / "media", clips)
    looks = SPEC["features"]["looks"]
    found = {}
    corpus.write_spec()
    found["first run"] = corpus.run()
    found["nothing changed"] = corpus.run()
    for number, path in enumerate(corpus.share(0.01)):
        note = f"another {number}".encode().ljust(32)
        path.write_bytes(path.read_bytes() + struct.pack(">I4s", 8 + len(note), b"free") + note)
    found["1 % changed"] = corpus.run()
    for path in corpus.share(0.001, skip=1):
        path.unlink()
    found["0.1 % deleted"] = corpus.run()
    for path in corpus.media:
        os.utime(path)
    found["all touched"] = corpus.run()
    for path in corpus.media:
        path.rename(path.with_stem(f"new-{path.stem}"))
    found["all renamed"] = corpus.run()
    changed = SPEC["features"] | {"looks": looks | {"sample": {"every": "2100ms"}}}
    corpus.write_spec(features=changed)
    found["one of two features changed"] = corpus.run()
    corpus.write_spec(features={"looks": changed["looks"]}, indexes={}, exports={}, store="./alone")
    found["that feature alone"] = corpus.run()
    return found


def main(arguments: list[str]) -> int:
    """Run the nights on two clips and on many, and print the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks nightly")
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1_000_000, help="of the planner; 0 leaves it out")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        least, full = nights(Path(folder), FEWEST), nights(Path(folder), options.clips)
    spent = {name: max(0.0, usage.cpu_s - least[name].cpu_s) for name, usage in full.items()}
    share = spent["that feature alone"] / spent["first run"]
    promised = {
        "nothing changed": "1 %",
        "1 % changed": "3 %",
        "all renamed": "5 %",
        "one of two features changed": f"{share + 0.02:.1%}",
    }
    first = spent["first run"]
    rows = [
        (name, f"{full[name].cpu_s:.1f}", f"{seconds:.1f}", f"{seconds / first:.1%}", promised.get(name, ""))
        for name, seconds in spent.items()
    ]
    table(["night", "CPU s", "less start-up", "of the first run", "promised"], rows)
    result = json.loads(full["0.1 % deleted"].output)
    size = sum(entry["size"] for entry in result["release"]["features"].values())
    rewritten = result["report"]["bytes"]["rewritten"]
    print(f"0.1 % deleted: {rewritten / size:.1%} of the features' bytes written again (promised: 25 %)")
    if options.items:
        planner = run([sys.executable, "-m", "benchmarks", "planner", "--items", str(options.items)])
        print(f"\nPlanner, {options.items:,} items (promised: 10 s, 2 GB):\n{planner.output}")
    return 0

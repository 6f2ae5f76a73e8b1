"""Precisions: bf16, int8 and int8_weights against f32, speed and agreement, of the built-in encoders.

Pictures are those of the demo's clips, sentences are names of classes. All precisions of an encoder are measured in
one process with the same samples; ``cliploom models bench`` does the same with the encoders of a spec.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path


def main(argv: list[str]) -> int:
    """Print one table; ``python -m benchmarks precision [--every 250ms] [--isa AVX2]``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks precision", description=__doc__)
    parser.add_argument("--every", default="200ms", help="sampling of the demo's clips: how many pictures there are")
    parser.add_argument("--isa", help="what OpenVINO may use at most, such as AVX2: a processor without VNNI")
    arguments = parser.parse_args(argv)
    if arguments.isa:
        os.environ["OV_CPU_MAX_ISA"] = arguments.isa
    from cliploom.pipelines.demo.make import write_demo
    from cliploom.pipelines.running.model_bench import bench_encoders, bench_text
    from cliploom.schemas.spec_file import load_spec
    from cliploom.transforms.encoders.processor import processor_features

    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as scratch:
        demo = write_demo(Path(scratch) / "demo")
        spec = load_spec(demo.spec, [f"features.frames.sample.every={arguments.every}"])
        rows = bench_encoders(spec, demo.folder, None, lambda text: print(text, file=sys.stderr))
    print(f"{processor_features()}, one thread, ratios of CPU time in one process\n")
    print(bench_text(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Make a folder of videos, GIFs and images searchable: python examples/own_videos.py FOLDER "a dog on a beach"."""

import subprocess
import sys
from pathlib import Path

import cliploom

if __name__ == "__main__":
    folder, query = Path(sys.argv[1]), sys.argv[2]
    if not Path("cliploom.yaml").exists():
        subprocess.run([sys.executable, "-m", "cliploom", "init", str(folder)], check=True)
    cliploom.run("cliploom.yaml", on_stage=print)  # the first time everything, later only what changed
    for hit in cliploom.open("store").search(query, top=5):
        print(f"{hit.score:.3f}  {hit.uid} at {hit.start_s:.0f} s")

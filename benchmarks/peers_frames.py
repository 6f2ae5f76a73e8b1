"""Frames out of videos: cliploom's sampling against video2dataset's ffmpeg subsamplers, one frame a second.

cliploom hands on pixels scaled for an encoder; video2dataset writes clips of one frame a second (``fps``) or JPEG
pictures (``jpg``), so it also encodes what it found: that is the form in which it hands frames on.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

from benchmarks.corpus import SECONDS, write_clips
from benchmarks.measure import table
from benchmarks.process_tree import CommandFailedError, TreeUsage, run_tree

SIZE = (640, 360)
RIVAL = Path(__file__).parent / "rivals" / "v2d_frames.py"
OURS = """
import sys
from pathlib import Path
from schemas.media import MediaLimits, Preprocess
from schemas.sampling import Every
from transforms.media.decode import Request, decode
from transforms.media.probe import probe

want = Request(Every(every="1s"), Preprocess(224, 224, crop=0.875))
print(sum(1 for path in sorted(Path(sys.argv[1]).iterdir()) for _ in decode(path, probe(path, MediaLimits()), [want])))
"""


def pack(folder: Path, tar: Path) -> None:
    """The clips as video2dataset keeps them between its stages, each second named as a subtitle."""
    lines = [{"start": f"00:00:{s:02d}.000", "end": f"00:00:{s + 1:02d}.000", "lines": [""]} for s in range(SECONDS)]
    facts = {"status": "success", "error_message": None, "yt_meta_dict": {"subtitles": lines}}
    with tarfile.open(tar, "w") as archive:
        for path in sorted(folder.iterdir()):
            said = json.dumps({"key": path.stem, **facts}).encode()
            archive.add(path, path.name)
            entry = tarfile.TarInfo(f"{path.stem}.json")
            entry.size = len(said)
            archive.addfile(entry, io.BytesIO(said))


def measure(python: str, root: Path, clips: int, present: dict[str, str]) -> None:
    """Print the table."""
    name = "video2dataset"
    if name not in present:
        print(f"{name}: not asked for, or not installed in the rivals' environment")
        return
    found: dict[str, list[TreeUsage]] = {}
    for folder, count in (("few-frames", 1), ("frames", clips)):
        write_clips(root / folder, count, SIZE)
        tar = root / f"{folder}.tar"
        pack(root / folder, tar)
        found.setdefault("cliploom", []).append(run_tree([sys.executable, "-c", OURS, str(root / folder)]))
        for method in ("fps", "jpg"):
            out = root / f"v2d-{method}-{folder}"
            try:
                usage = run_tree([python, str(RIVAL), method, str(tar), str(out)])
            except CommandFailedError as error:
                print(f"{name} {present[name]}, {method}: failed: {str(error).splitlines()[-1]}")
                continue
            found.setdefault(f"{name} {present[name]}, {method}", []).append(usage)
    frames = (clips - 1) * SECONDS
    both = {key: usages for key, usages in found.items() if len(usages) == 2}
    spent = {key: max(many.cpu_s - one.cpu_s, 1e-3) for key, (one, many) in both.items()}
    rows = [
        (key, f"{frames / seconds:.0f}", f"{seconds / spent['cliploom']:.1f}", f"{found[key][0].cpu_s:.1f}")
        for key, seconds in spent.items()
    ]
    print(f"\nFrames: one a second of {clips} clips of {SECONDS} s, {SIZE[0]}x{SIZE[1]}")
    table(["", "frames/CPU s", "cliploom is x", "one clip, CPU s"], rows)

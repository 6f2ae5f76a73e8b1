"""How ``tests/golden/pictures`` was made: media by the helpers of these tests, the store by commit 44b35b1 (0.1.0).

    PYTHONPATH=.:tests python tests/golden/make_pictures.py media tests/golden/pictures
    PYTHONPATH=<a checkout of 44b35b1>:<its tests> python tests/golden/make_pictures.py store tests/golden/pictures

The media are one of each kind that later versions show otherwise, and some that they show as before.
"""

from __future__ import annotations

import shutil
import sys
from fractions import Fraction
from pathlib import Path

SPEC = """\
version: 1
name: pictures
store: ./store
sources:
  clips: {kind: media, glob: ["media/*.*"], uid: file}
encoders:
  eyes:
    kind: onnx
    model: models/eyes.onnx
    input: {layout: nchw, width: 16, height: 16, fit: squash, offset: [120, 115, 100], scale: 64}
    outputs: {look: {node: look}}
features:
  frames: {source: clips, sample: {every: 200ms}, encoder: eyes}
targets: {local: {workers: 1}}
limits: {max_failed: 100%, max_recompute: 100%}
"""


def write_media(media: Path) -> None:
    """Plain files, and one of each kind that needs a correction."""
    import numpy as np
    from av.video.reformatter import ColorTrc
    from field_pictures import write_field_pictures
    from media_factory import picture, write_gif, write_image, write_video
    from PIL import Image
    from test_media_odd import jumped
    from test_media_pictures import fields_of, in_pq, photo, write_hdr
    from test_media_stills import write_cleared_gif

    write_video(media / "plain.mp4", 10)
    write_video(media / "plain.mkv", 10, "libvpx-vp9")
    write_video(media / "plain.mpg", 10, "mpeg2video")
    write_gif(media / "plain.gif")
    write_image(media / "plain.jpg")
    write_image(media / "plain.tif")
    write_video(media / "aspect.mkv", 10, aspect=Fraction(16, 11))
    write_field_pictures(media / "fields.ts", 6, picture)
    write_video(
        media / "interlaced.mpg", 10, "mpeg2video", draw=fields_of, options={"flags": "+ilme+ildct"}, interlaced=True
    )
    write_hdr(media / "pq.mp4", "libx265", lambda i: in_pq(photo(i, 192, 128)), ColorTrc.SMPTE2084, {})
    jumped(media / "clock.ts", write_video(media / "source.mkv", 40), 20, 40, 70.0)
    (media / "source.mkv").unlink()
    pictures = [Image.fromarray(picture(number)) for number in range(3)]
    pictures[0].save(media / "delays.png", save_all=True, append_images=pictures[1:], duration=[0, 200, 200])
    Image.fromarray((picture(0x5A3C)[:, :, 0] / 255).astype(np.float32)).save(media / "float.tif")
    write_cleared_gif(media / "cleared.gif")


def main(step: str, folder: Path) -> None:
    """Make the media, or run over them."""
    if step == "media":
        (folder / "media").mkdir(parents=True)
        write_media(folder / "media")
        (folder / "models").mkdir()
        shutil.copy(Path("tests/golden/v1/models/eyes.onnx"), folder / "models")
        (folder / "cliploom.yaml").write_text(SPEC)
        return
    from cliploom.pipelines.running.run import RunOptions, run_spec
    from cliploom.schemas.spec_file import load_document, parse_document

    document = load_document(folder / "cliploom.yaml")
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: print(text))
    for name in ("plans", "probes"):
        shutil.rmtree(folder / "store" / name, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

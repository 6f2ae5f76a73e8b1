"""A folder as a new user has it: some forty files of a phone and of downloads, a third of them no media at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from media_factory import truncate, write_audio, write_gif, write_noise
from PIL import Image
from stores import SIZE, pan

from cliploom.pipelines.demo.corpus import CAT, COFFEE, PAGE, ROCKET

LONG = "a very long name that some camera or other has given to this one clip of the holidays in the south 2024-07-01"


def write_odd_folder(folder: Path) -> Path:
    """Write the files below ``folder``; 26 of 40 can be used."""
    folder.mkdir(parents=True)
    phone, saved = folder / "DCIM" / "100APPLE", folder / "saved stuff"
    for path in (phone, saved, folder / ".thumbnails", folder.parent / "elsewhere"):
        path.mkdir(parents=True, exist_ok=True)
    photos = {photo: photo.load().resize(SIZE) for photo in (CAT, COFFEE, PAGE, ROCKET)}
    # Videos.
    pan(CAT, phone / "IMG_0001.MOV", 15)
    pan(COFFEE, phone / "IMG_0002.MP4", 10)
    pan(ROCKET, phone / "IMG_0003.mp4", 11)
    pan(CAT, saved / f"{LONG}.mp4", 6)
    pan(COFFEE, saved / "ka\u00dfee und m\u00fcsli \u2615.m4v", 6)
    pan(ROCKET, saved / "rocket [final] (2).mkv", 6)
    shutil.copyfile(phone / "IMG_0001.MOV", saved / "copy of IMG_0001.mov")
    pan(PAGE, folder.parent / "elsewhere" / "linked.mp4", 5)
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    # GIFs and images.
    write_gif(saved / "loop.gif")
    photos[CAT].save(saved / "cat.GIF", save_all=True, append_images=[photos[ROCKET]], duration=500)
    for number, photo in enumerate(photos.values()):
        photo.save(phone / f"IMG_{number + 1:04d}.JPG")
        photo.save(saved / f"photo {number}.png")
    for suffix, photo in zip(
        (".bmp", ".tif", ".TIFF", ".webp", ".jpeg", ".avif"), 2 * list(photos.values()), strict=False
    ):
        photo.save(saved / f"other{suffix}")
    photos[PAGE].convert("CMYK").save(saved / "print.jpg")
    Image.new("L", (1, 1)).save(saved / "dot.png")
    # What only looks like media.
    write_noise(saved / "noise.mp4", 2000)
    (saved / "empty.mp4").touch()
    (saved / "page.jpg").write_text("<html>Not found</html>")
    (saved / "component.ts").write_text("export const answer = 42;\n")
    (saved / "notes.avi").write_text("buy milk\n")
    (saved / "half.png").write_bytes((saved / "photo 0.png").read_bytes()[:60])
    write_audio(saved / "voice.mp4")
    truncate(shutil.copyfile(phone / "IMG_0002.MP4", saved / "cut.mp4"), 0.5)
    (saved / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    (saved / "folder.mp4").mkdir()
    write_noise(phone / "IMG_0009.HEIC", 500)
    # What is not listed.
    photos[CAT].save(folder / ".thumbnails" / "1.jpg")
    (saved / "._IMG_0001.mov").write_bytes(bytes(100))
    for name in ("Thumbs.db", "notes.txt", "list.csv", "README"):
        (saved / name).write_text("hello\n")
    return folder

"""Videos of sites that show them in pages, such as YouTube, through yt-dlp where the extra ``[youtube]`` is installed.

Runs in the worker process, which resolves names to public addresses only and is ended when it takes too long.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cliploom.schemas.errors import ItemError, MissingExtraError, SpecError, TooLargeError, UnreadableError
from cliploom.transforms.inputs.addresses import shown

VIDEO_SITES = (
    "youtube.com", "youtu.be", "youtube-nocookie.com", "vimeo.com", "dailymotion.com", "dai.ly", "twitch.tv",
    "tiktok.com", "instagram.com", "facebook.com", "x.com", "twitter.com", "reddit.com", "bilibili.com", "rumble.com",
    "odysee.com",
)  # fmt: skip
"""Sites whose addresses name pages, never files."""
# One file over http(s), as yt-dlp would call other programs to join streams or to read HLS; 480 lines suffice.
_FORMATS = "/".join(
    f"best{kind}[protocol={protocol}]"
    for kind in ("[ext=mp4][height<=480]", "[height<=480]", "")
    for protocol in ("https", "http")
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def is_video_site(address: str) -> bool:
    """Return whether an address is a page of a site for videos.

    >>> is_video_site("https://www.youtube.com/watch?v=1"), is_video_site("https://notyoutube.com/a.mp4")
    (True, False)
    """
    host = (urlsplit(address).hostname or "").rstrip(".").lower()
    return any(host == site or host.endswith(f".{site}") for site in VIDEO_SITES)


def download_page(address: str, target: Path, max_bytes: int, on_text: Callable[[str], None]) -> None:
    """Fetch the video that a page shows.

    Args:
        address: of the page.
        target: file to write.
        max_bytes: bound of its size.
        on_text: told how far it is.

    Raises:
        MissingExtraError: when yt-dlp is not installed.
        SpecError: when yt-dlp knows no video there.
        ItemError: when the video can't be fetched or is too large.
    """
    try:
        yt_dlp: Any = importlib.import_module("yt_dlp")
    except ModuleNotFoundError:
        raise MissingExtraError("youtube", f"The video of the page {shown(address)!r}") from None

    def watch(state: dict[str, Any]) -> None:
        done = int(state.get("downloaded_bytes") or 0)
        if done > max_bytes:
            raise TooLargeError("download", f"{shown(address)} is larger than {max_bytes:,} bytes.")
        whole = state.get("total_bytes") or state.get("total_bytes_estimate")
        if whole:
            on_text(f"{min(100, round(100 * done / whole))} %")

    options = {
        "format": _FORMATS,
        "outtmpl": {"default": str(target).replace("%", "%%")},
        "max_filesize": max_bytes,
        "noplaylist": True,
        "playlist_items": "1",
        "allowed_extractors": ["default", "-generic"],
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": _Silent(),
        "progress_hooks": [watch],
        "socket_timeout": 15,
        "retries": 2,
        "cachedir": False,
        "nopart": True,
        "updatetime": False,
        "overwrites": True,
    }
    try:
        with yt_dlp.YoutubeDL(options) as site:
            site.download([address])
    except ItemError:
        raise
    except Exception as error:
        # yt-dlp raises what its extractors raise; its sentences begin with ERROR and may be coloured.
        said = _COLOUR.sub("", str(error)).strip().partition("\n")[0].removeprefix("ERROR:").strip()[:300]
        raise SpecError(f"The video of {shown(address)} can't be had: {said or type(error).__name__}") from None
    if not target.exists() or not target.stat().st_size:
        raise UnreadableError(
            "download", f"{shown(address)} has no video of at most {max_bytes:,} bytes in one http(s) file."
        )


class _Silent:
    """Takes yt-dlp's log lines, which the exception repeats."""

    def debug(self, text: str) -> None:
        """Ignore it."""

    info = warning = error = debug

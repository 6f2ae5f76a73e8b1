"""Downloads from video sites such as YouTube through yt-dlp, if the extra ``[youtube]`` is installed.

Runs in the worker process, which resolves names to public addresses only and has a time limit.
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
"""Sites whose URLs are always pages, never files."""
# A single file over http(s): yt-dlp would start other programs to join streams or read HLS; 480 lines are enough.
_FORMATS = "/".join(
    f"best{kind}[protocol={protocol}]"
    for kind in ("[ext=mp4][height<=480]", "[height<=480]", "")
    for protocol in ("https", "http")
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def is_video_site(address: str) -> bool:
    """Return whether a URL is a page of a video site.

    >>> is_video_site("https://www.youtube.com/watch?v=1"), is_video_site("https://notyoutube.com/a.mp4")
    (True, False)
    """
    host = (urlsplit(address).hostname or "").rstrip(".").lower()
    return any(host == site or host.endswith(f".{site}") for site in VIDEO_SITES)


def download_page(address: str, target: Path, max_bytes: int, on_text: Callable[[str], None]) -> None:
    """Download the video of a page.

    Args:
        address: the URL of the page.
        target: the path to write to.
        max_bytes: the maximum size of the file.
        on_text: a callback that receives progress messages.

    Raises:
        MissingExtraError: yt-dlp is not installed.
        SpecError: yt-dlp finds no video on the page.
        ItemError: the video cannot be downloaded or is too large.
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
        # yt-dlp raises whatever its extractors raise; messages begin with ERROR and may contain colour codes.
        said = _COLOUR.sub("", str(error)).strip().partition("\n")[0].removeprefix("ERROR:").strip()[:300]
        raise SpecError(f"The video of {shown(address)} cannot be downloaded: {said or type(error).__name__}") from None
    if not target.exists() or not target.stat().st_size:
        raise UnreadableError(
            "download", f"{shown(address)} has no video of at most {max_bytes:,} bytes in one http(s) file."
        )


class _Silent:
    """Discards yt-dlp's log lines; exceptions repeat them."""

    def debug(self, text: str) -> None:
        """Ignore the message."""

    info = warning = error = debug

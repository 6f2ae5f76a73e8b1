"""Settings of the page server: where it listens, who may ask, and how much of everything it takes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from cliploom.serving.playback import ConversionLimits

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServeSettings:
    """What the server listens to and the bounds of one request and of all requests together.

    Attributes:
        host, port: the address that it listens to.
        token: a secret that every request must give; empty for none.
        allowed_hosts: names by which browsers may reach it beside loopback names, such as behind a proxy.
        max_upload: bytes of a file that is dropped on the page.
        max_body: bytes of any other request body.
        max_text: characters of a query.
        max_top: hits of one answer.
        body_s: seconds within which a request must have arrived whole.
        header_s: seconds within which its headers must have arrived.
        searches, waiting: searches that are computed at a time, and that may wait; more are refused with 429.
        streams: media files that are sent at a time.
        queue: predictions that may wait for the worker process.
        task_s: seconds that one prediction may take.
        refresh_s: seconds between looks for a new release.
        thumbnail_bytes: bound of the cache of thumbnails on disk.
        links: whether links may be predicted, which the server downloads.
        conversion: of videos that browsers do not play.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str = ""
    allowed_hosts: tuple[str, ...] = ()
    max_upload: int = 200_000_000
    max_body: int = 512 << 10
    max_text: int = 2000
    max_top: int = 200
    body_s: float = 60.0
    header_s: float = 10.0
    searches: int = 4
    waiting: int = 64
    streams: int = 32
    queue: int = 8
    task_s: float = 600.0
    refresh_s: float = 1.0
    thumbnail_bytes: int = 500_000_000
    links: bool = True
    conversion: ConversionLimits = field(default_factory=ConversionLimits)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Settings of the page server: its address, access control, and limits."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from cliploom.serving.playback import ConversionLimits

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServeSettings:
    """The address of the server, and the limits of each request and of all requests together.

    Attributes:
        host, port: the address to listen on.
        token: the secret that every request must send; empty for none.
        allowed_hosts: further host names that are accepted, such as that of a proxy; loopback names always are.
        max_upload: maximum size of an uploaded file, in bytes.
        max_body: maximum size of any other request body, in bytes.
        max_text: maximum number of characters in a query.
        max_top: maximum number of hits in a response.
        body_s: seconds within which the complete request must arrive.
        header_s: seconds within which its headers must arrive.
        searches, waiting: concurrent searches, and waiting ones; more are rejected with status 429.
        streams: media files that are sent concurrently.
        queue: predictions that may wait for the worker process.
        task_s: time limit of one prediction, in seconds.
        refresh_s: seconds between checks for a new release.
        thumbnail_bytes: size of the thumbnail cache on disk.
        links: whether predictions for links are allowed; the server downloads them.
        conversion: limits for converting videos that browsers do not play.
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
        """Whether the server is reachable from this machine only."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is a loopback one.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""A real S3 server on this machine: versitygw, built once through the Go proxy and kept in the cache.

It serves a folder: each bucket is a folder in it, each object a file. Credentials are those of one run of the server
and come to clients by environment variables alone.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flink_cluster import free_port, listens, wait_until

from tests.bounded import mortal

VERSION = "v1.8.0"
MODULE = "github.com/versity/versitygw/cmd/versitygw"
BUCKET = "corpus"
HOST = "127.0.0.1"


def server_path() -> Path:
    """Where the program is kept between runs."""
    named = os.environ.get("CLIPLOOM_S3_SERVER")
    return Path(named) if named else Path.home() / ".cache" / "cliploom" / f"versitygw-{VERSION}" / "versitygw"


def missing() -> str:
    """What this machine lacks for an S3 server, with the mend; empty when nothing."""
    if server_path().exists() or shutil.which("go") is not None:
        return ""
    return (
        f"the S3 server versitygw {VERSION} is not at {server_path()} and Go, which builds it, is not on PATH "
        "(Debian: golang-go, at least 1.25); install it, or name the program in CLIPLOOM_S3_SERVER"
    )


def install() -> Path:
    """Build the server unless it is there; takes about 80 s of two cores once.

    Raises:
        RuntimeError: with what Go said, when it fails.
    """
    path = server_path()
    if path.exists():
        return path
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent.parent, prefix=".building-") as name:
        done = subprocess.run(
            ["go", "install", f"{MODULE}@{VERSION}"],
            env=os.environ | {"GOBIN": name, "CGO_ENABLED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"go install {MODULE}@{VERSION} failed:\n{done.stderr[-2000:]}")
        path.parent.mkdir(exist_ok=True)
        os.replace(Path(name) / "versitygw", path)
    return path


@dataclass(frozen=True)
class S3Server:
    """A server with one bucket.

    Attributes:
        address: ``host:port``.
        access: key id; ``secret``: its secret, recognisable in whatever it should not be in.
        folder: what lies in the bucket, as files.
    """

    address: str
    access: str
    secret: str
    folder: Path

    def environment(self, address: str = "") -> dict[str, str]:
        """What clients need; ``address`` is that of a proxy before the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{address or self.address}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A running server for the time of the block.

    Args:
        folder: for its data and its log; new.
    """
    program = install()
    data = folder / "data"
    (data / BUCKET).mkdir(parents=True)
    (folder / "notes").mkdir()
    server = S3Server(f"{HOST}:{free_port()}", f"key{secrets.token_hex(6)}", f"SECRET{secrets.token_hex(16)}", data)
    gateway = [str(program), "--port", server.address, "--quiet"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            mortal([*gateway, "posix", "--sidecar", str(folder / "notes"), str(data)]),
            env=os.environ | {"ROOT_ACCESS_KEY": server.access, "ROOT_SECRET_KEY": server.secret},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: process.poll() is not None or listens(server.address), "the start of the S3 server")
        if process.poll() is not None:
            raise RuntimeError(f"versitygw ended: {(folder / 'server.log').read_text(errors='replace')[-2000:]}")
        yield server
    finally:
        process.kill()
        process.wait()

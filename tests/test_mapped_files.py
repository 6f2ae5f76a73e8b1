"""Pages of mapped files are given back and read again."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import pytest

from cliploom.transforms.encoders.mapped_files import drop_resident_pages

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mappings are listed by Linux")
SIZE = 4_000_000


def resident(path: Path) -> int:
    """Bytes of a mapped file in this process's memory."""
    found = re.search(rf"{re.escape(str(path))}\n(?:\w+:.*\n)*?Rss:\s+(\d+) kB", Path("/proc/self/smaps").read_text())
    return int(found[1]) * 1024 if found else 0


def test_pages_are_dropped_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a file.bin"
    path.write_bytes(bytes(range(250)) * (SIZE // 250))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) > 0
        assert resident(path) >= SIZE
        assert drop_resident_pages(path) >= SIZE
        assert resident(path) == 0
        assert mapped[:] == path.read_bytes()


def test_a_private_mapping_keeps_what_was_written_to_it(tmp_path: Path) -> None:
    path = tmp_path / "private.bin"
    path.write_bytes(bytes(SIZE))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:4] = b"kept"
        assert drop_resident_pages(path) == 0
        assert mapped[:4] == b"kept"


def test_a_file_that_is_not_mapped(tmp_path: Path) -> None:
    assert drop_resident_pages(tmp_path / "missing.bin") == 0

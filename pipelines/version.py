"""The version of this program, as recorded in releases."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """Return the version of the installed package, or of the source tree."""
    try:
        return version("cliploom")
    except PackageNotFoundError:
        return "0.2.0.dev0+source"

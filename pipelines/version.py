"""The version of this program, as releases keep it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """Version of the installed package, or of the source tree."""
    try:
        return version("cliploom")
    except PackageNotFoundError:
        return "0.2.0.dev0+source"

"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings
from quick_beam import keep_inspections
from stores import SmallStore, write_project


def pytest_collection_finish() -> None:
    """Keep the garbage collector from visiting modules and tests again, which live as long as the process."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let it free everything in the end; libraries that count their objects report those that stay."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def quick_graphs() -> None:
    """Beam may have been imported by the test before, or by this one's module."""
    keep_inspections()


# Examples may take long on a busy machine, and none of the properties is about time.
settings.register_profile("cliploom", deadline=None)
settings.load_profile("cliploom")

# xdist's workers are told a width; output is as wide as in a pipe unless a test says otherwise.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session")
def built_store(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A small store with one release. Shared: only read it."""
    project = write_project(tmp_path_factory.mktemp("built"))
    project.run()
    return project


@pytest.fixture
def small_store(built_store: SmallStore, tmp_path: Path) -> SmallStore:
    """A copy of the small store, to be changed at will; its files' times are those of the original."""
    folder = tmp_path / "project"
    shutil.copytree(built_store.folder, folder, symlinks=True)
    return SmallStore(folder)

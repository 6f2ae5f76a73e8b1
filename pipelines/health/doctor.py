"""All checks of ``cliploom doctor``, ordered so that earlier problems explain later ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cliploom.pipelines.health import machine, packages
from cliploom.pipelines.health.findings import Finding
from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.schemas.secrets import masked

SPEC = "cliploom.yaml"


def store_of(target: str | None) -> str | None:
    """Return the store that the user means.

    Args:
        target: a store, or a spec, whose store is used; None: that of ``cliploom.yaml`` in this folder, if there is
            one.

    Raises:
        SpecError: the spec cannot be read.
    """
    if target is None:
        if not Path(SPEC).is_file():
            return None
        target = SPEC
    if "://" in target or not Path(target).expanduser().is_file():
        return target
    from cliploom.schemas.spec_file import load_spec
    from cliploom.transforms.store.uris import absolute

    path = Path(target).expanduser()
    store = load_spec(path).store
    return store if "://" in store else str(absolute(path.parent / Path(store).expanduser()))


def diagnose(target: str | None) -> list[Finding]:
    """Run all checks; a check that fails becomes a finding.

    Args:
        target: a store or a spec; see ``store_of``.
    """
    found = [*_guarded("Program", packages.program), *_guarded("Packages", packages.packages)]
    if any(finding.state == "problem" for finding in found):
        return found  # the remaining checks need them
    found += _guarded("Extras", packages.extras)
    found += _guarded("Encoders", packages.weights)
    found += _guarded("Codecs", machine.codecs)
    found += _guarded("Processor", machine.processor)
    found += _guarded("Memory and disk", machine.memory)
    try:
        store = store_of(target)
    except SpecError as error:
        fix = f"cliploom validate {target or SPEC}"
        return [*found, Finding("Store", "spec", "problem", masked(str(error)).splitlines()[0], fix)]
    local = Path(store).expanduser() if store and "://" not in store else None
    found += _guarded("Memory and disk", lambda: machine.disk(local if local and local.is_dir() else None))
    if store is not None:
        found += _guarded("Store", lambda: _store(store))
    return found


def _store(store: str) -> Iterator[Finding]:
    from cliploom.pipelines.health.stores import store_findings

    yield from store_findings(store)


def _guarded(section: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(look())
    except CliploomError as error:
        found.append(Finding(section, "problem", "problem", masked(str(error))))
    except Exception as error:
        reason = f"could not be checked ({type(error).__name__}: {error})"
        found.append(Finding(section, section.lower(), "problem", masked(" ".join(reason.split()))[:500]))
    return found

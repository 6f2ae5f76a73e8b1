"""Finds the spec and the store that a command uses: the named ones, or those of the current folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from cliploom.schemas.errors import SpecError

SPEC_NAME = "cliploom.yaml"
"""Name of the spec that commands use if none is named."""


def find_spec(given: Path | None, command: str) -> Path:
    """Return the spec that a command uses.

    Args:
        given: a spec, a folder that holds ``cliploom.yaml``, a store beside its spec, or None for the current folder.
        command: name of the command, for messages.

    Raises:
        SpecError: if there is no spec; the message says what to name.
    """
    if given is None:
        if Path(SPEC_NAME).is_file():
            return Path(SPEC_NAME)
        raise SpecError(
            f"No spec is named, and this folder has no {SPEC_NAME}; name one, `cliploom {command} SPEC`, or write one, "
            "`cliploom init FOLDER`."
        )
    if not given.is_dir():
        return given
    if (given / SPEC_NAME).is_file():
        return given / SPEC_NAME
    from cliploom.transforms.store.object_store import is_store

    if is_store(given):
        beside = given.absolute().parent / SPEC_NAME
        if beside.is_file() and _local_store(beside) == given.resolve():
            return given.parent / SPEC_NAME
        raise SpecError(
            f"{str(given)!r} is a store, and `cliploom {command}` starts from its spec; name the YAML file, "
            f"`cliploom {command} SPEC`."
        )
    raise SpecError(
        f"{str(given)!r} is a folder without {SPEC_NAME}; name the spec, or write one, "
        f"`cliploom init {shlex.quote(str(given))}`."
    )


def find_store(given: str | None, command: str) -> str:
    """Return the folder or URI of the store that a command uses.

    Args:
        given: a store, the spec of one, or None for the store of ``cliploom.yaml`` in the current folder.
        command: name of the command with placeholders for its further arguments, for messages.

    Raises:
        SpecError: if nothing is named and the current folder has no spec.
    """
    if given is None:
        if Path(SPEC_NAME).is_file():
            return store_of(Path(SPEC_NAME))
        from cliploom.transforms.store.object_store import is_store

        if is_store(Path()):
            return "."
        name, _, rest = command.partition(" ")
        raise SpecError(
            f"No store is named, and this folder has no {SPEC_NAME} that says where one is; name it, "
            f"`cliploom {name} STORE{' ' + rest if rest else ''}`."
        )
    if "://" not in given and Path(given).suffix.lower() in (".yaml", ".yml") and Path(given).expanduser().is_file():
        return store_of(Path(given).expanduser())
    return given


def find_store_and_text(store: str | None, text: str | None, like: str | None) -> tuple[str, str | None]:
    """Return the store and the text of a search; a single argument that names no store is the text.

    Raises:
        SpecError: when no store is named and the current folder has no spec.
    """
    if store is not None and text is None and like is None and not _names_store(store):
        store, text = None, store
    words = "--like FILE" if like is not None else shlex.quote(text) if text is not None else '"a dog on a beach"'
    return find_store(store, f"search {words}"), text


def _names_store(argument: str) -> bool:
    """Return whether the argument is a path or URI instead of words to search for."""
    if "://" in argument:
        return True
    try:
        path = Path(argument).expanduser()
        if path.is_dir():
            from cliploom.transforms.store.object_store import is_store

            # A folder may be named like the searched words, such as cats.
            return is_store(path) or not Path(SPEC_NAME).is_file()
        return path.is_file() or ("/" in argument and not any(letter.isspace() for letter in argument))
    except (OSError, RuntimeError, ValueError):  # too long for a path, an unknown user, or not a path
        return False


def store_of(spec: Path) -> str:
    """Return the folder or URI of a spec's store; a local one inside the current folder is relative to it."""
    from cliploom.schemas.spec_file import load_spec
    from cliploom.transforms.store.uris import absolute

    store = load_spec(spec).store
    if "://" in store:
        return store
    path = absolute(absolute(spec).parent / Path(store).expanduser())
    here = Path.cwd()
    return str(path.relative_to(here)) if path != here and path.is_relative_to(here) else str(path)


def _local_store(spec: Path) -> Path | None:
    """Return the folder of a spec's store; None for a bucket or an invalid spec."""
    try:
        store = store_of(spec)
    except SpecError:
        return None
    return None if "://" in store else Path(store).resolve()

"""The source code that a custom encoder's vectors depend on, so that changes to it are noticed.

A custom encoder with ``REVISION`` declares by hand when its vectors change. Without one, the digest of its model covers
the whole source file of its class, with normalised line endings.

Versions before 0.2.0 ignored the source. A model prepared by such a version keeps its name and thus its vectors as long
as its source is the one found by the first run of a later version, which is recorded beside the model.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from cliploom.schemas.errors import StoreError
from cliploom.transforms.encoders.base import EncoderOptions, Family
from cliploom.transforms.encoders.prepare import model_digest
from cliploom.transforms.store.object_store import ObjectStore

CODE_FILE = "code.json"
"""In a prepared model's folder: module -> SHA-256 of its source when the model was prepared or first found."""

MODELS = "models"


def code_of(kind: Family, options: EncoderOptions, *, undeclared: bool = False) -> dict[str, str]:
    """Return module name -> SHA-256 of the source of a custom encoder; empty for built-in encoders.

    Args:
        kind: the kind of the encoder.
        options: the checked options, which name the wrapped encoder, if any.
        undeclared: whether to include only encoders that declare no ``REVISION``.
    """
    wrapped = kind.wrapped(options)
    chosen = [each for each in (kind, wrapped) if each is not None]
    modules = {
        module
        for each in chosen
        for module in _custom_modules(type(each))
        if not (undeclared and declares_revision(each))
    }
    sources = {module: _source(module) for module in sorted(modules)}
    return {module: hashlib.sha256(source).hexdigest() for module, source in sources.items() if source is not None}


def declares_revision(kind: Family) -> bool:
    """Return whether a custom encoder's class, or a custom base class of it, declares ``REVISION``."""
    return any("REVISION" in vars(each) for each in type(kind).__mro__ if _is_custom(each))


def code_in_digest(objects: ObjectStore, kind: Family, options: EncoderOptions, text_digest: str) -> dict[str, str]:
    """Return the code that the digest of an encoder's model covers.

    None for a model prepared by an earlier version, as long as its code is as first found.
    """
    code = code_of(kind, options, undeclared=True)
    if not code:
        return {}
    earlier = model_digest(kind, options, text_digest)
    if objects.size(f"{MODELS}/{earlier}/card.json") is None:
        return code
    return {} if noted_code(objects, earlier, code) == code else code


def noted_code(objects: ObjectStore, digest: str, code: dict[str, str]) -> dict[str, str]:
    """Return the code recorded beside a prepared model; record ``code`` if there is none.

    Raises:
        StoreError: the record is damaged.
    """
    path = f"{MODELS}/{digest}/{CODE_FILE}"
    if objects.put_new(path, (json.dumps(code, indent=1, sort_keys=True) + "\n").encode()):
        return code
    try:
        found = json.loads(objects.get(path))
        return {str(module): str(digest) for module, digest in found.items()}
    except (ValueError, AttributeError) as error:
        raise StoreError(f"{objects.uri_of(path)} is damaged ({error}); remove it, and run again.") from None


def changed_code(noted: dict[str, str], code: dict[str, str]) -> list[str]:
    """Return the modules that differ, sorted."""
    return sorted(module for module in noted.keys() | code.keys() if noted.get(module) != code.get(module))


def _custom_modules(kind: type[Family]) -> Iterator[str]:
    """Yield the modules of a class, of its base classes, and of its options, excluding cliploom's."""
    for each in (*kind.__mro__, *kind.Options.__mro__):
        if _is_custom(each):
            yield each.__module__


def _is_custom(kind: type) -> bool:
    package = kind.__module__.partition(".")[0]
    return package not in {"cliploom", "pydantic"} and package not in sys.stdlib_module_names


def _source(module: str) -> bytes | None:
    """Return the source of a module with normalised line endings; the bytes of a compiled one; None without a file."""
    found = sys.modules.get(module)
    try:
        name = inspect.getsourcefile(found) or inspect.getfile(found) if found is not None else None
    except TypeError:
        return None
    path = Path(name) if name else None
    try:
        return path.read_bytes().replace(b"\r\n", b"\n") if path is not None else None
    except OSError:
        return None

"""Model folders by name: the Hugging Face cache first, then the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cliploom.schemas.errors import CliploomError


def hub_folder(
    what: str, name: str, revision: str | None, patterns: Sequence[str], ignored: Sequence[str] = ()
) -> Path:
    """Local folder of a model on the hub, fetched when the cache does not have it.

    Args:
        what: the kind of model, for the message.
        name: ``owner/model``.
        revision: commit or tag.
        patterns: files to fetch.
        ignored: files to leave out although a pattern names them.

    Raises:
        CliploomError: when the hub does not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    for cached in (True, False):
        try:
            found = snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=list(ignored),
                local_files_only=cached,
            )
            return Path(found)
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise CliploomError(
        f"The {what} model '{name}' is neither a folder nor to be had from the hub ({reason.rstrip('.')}); "
        "give a folder."
    )

"""Model folders by name: from the Hugging Face cache, else downloaded from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cliploom.schemas.errors import CliploomError


def hub_folder(
    what: str, name: str, revision: str | None, patterns: Sequence[str], ignored: Sequence[str] = ()
) -> Path:
    """Return the local folder of a model on the hub; download it if the cache does not have it.

    Args:
        what: the kind of model, for the message.
        name: ``owner/model``.
        revision: the commit or tag.
        patterns: the patterns of files to download.
        ignored: the patterns of files to skip nevertheless.

    Raises:
        CliploomError: the hub does not provide it.
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
        f"The {what} model '{name}' is neither a folder nor available on the hub ({reason.rstrip('.')}); give a folder."
    )

"""What routes have in common: the shared state, parameters, and the refusal of what is not there."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request

from cliploom.schemas.errors import SpecError
from cliploom.serving.state import ServerState

StoreName = Annotated[str | None, Query(max_length=200, description="Name of the store; the first one by default.")]
Source = Annotated[str | None, Query(max_length=200, description="Source of the item, where several have its uid.")]


class UnknownThingError(SpecError):
    """What an address names is not there."""


def state_of(request: Request) -> ServerState:
    """What requests share."""
    return request.app.state.server  # type: ignore[no-any-return]


def check_uid(uid: str) -> None:
    """Refuse what can be no uid.

    Raises:
        UnknownThingError: always 404, as for other uids that there are not.
    """
    if not uid or len(uid) > 4000 or "\0" in uid:
        raise UnknownThingError("An item is named by its uid, of at most 4,000 characters.")

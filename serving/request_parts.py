"""Parts that routes share: the state, common parameters, and the error for unknown things."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request

from cliploom.schemas.errors import SpecError
from cliploom.serving.state import ServerState

StoreName = Annotated[str | None, Query(max_length=200, description="Name of the store; the first one by default.")]
Source = Annotated[str | None, Query(max_length=200, description="Source of the item, if several have this uid.")]


class UnknownThingError(SpecError):
    """The URL names something that does not exist."""


def state_of(request: Request) -> ServerState:
    """Return the state that all requests share."""
    return request.app.state.server  # type: ignore[no-any-return]


def check_uid(uid: str) -> None:
    """Reject a string that cannot be a uid.

    Raises:
        UnknownThingError: always status 404, as for uids that do not exist.
    """
    if not uid or len(uid) > 4000 or "\0" in uid:
        raise UnknownThingError("The uid of an item has 1 to 4,000 characters.")

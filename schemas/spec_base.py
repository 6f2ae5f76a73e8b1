"""Shared by all parts of a spec: strict models, names, and the derivation of uids."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    Tag,
    model_validator,
)

from cliploom.schemas.units import NonNegativeSeconds

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: a letter, then letters, digits, _ or -, at most 64")
    return value


Name = Annotated[str, AfterValidator(_check_name)]
Text = Annotated[str, Field(min_length=1)]


class Model(BaseModel):
    """Base class of all spec models: frozen, strict, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def one_or_many(value: Any) -> Any:
    """Convert a single text to a list of one."""
    return [value] if isinstance(value, str) else value


class UidRegex(Model):
    r"""The uid is the first group (or the group named ``uid``) of a match in the path relative to the glob's root.

    Attributes:
        regex: a regular expression with at least one group, such as ``"(\d+)_take"``.
    """

    regex: str

    @model_validator(mode="after")
    def _compiles(self) -> UidRegex:
        try:
            groups = re.compile(self.regex).groups
        except re.error as error:
            raise ValueError(f"{self.regex!r} is not a regular expression: {error}") from error
        if groups == 0:
            raise ValueError(f"{self.regex!r} has no group: put the part that is the uid in parentheses")
        return self


def _uid_law(value: Any) -> str:
    return "regex" if isinstance(value, dict | UidRegex) else "name"


UidLaw = Annotated[
    Annotated[Literal["path", "file", "stem"], Tag("name")] | Annotated[UidRegex, Tag("regex")], Discriminator(_uid_law)
]


class KeepSpec(Model):
    """Filters for narrations.

    Attributes:
        min_tokens: the minimum number of pieces between single spaces; Ego4D's research code uses 5.
        min_spacing: videos whose narrations are closer on average are dropped; ``100ms`` in that code.
        without: files of uids, one per line, whose videos are dropped, such as those of val and test.
    """

    min_tokens: NonNegativeInt = 0
    min_spacing: NonNegativeSeconds = 0.0
    without: Annotated[list[str], BeforeValidator(one_or_many)] = []

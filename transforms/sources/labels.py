"""Class names in prompts as a kind of source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cliploom.schemas.sources import LabelsSource
from cliploom.transforms.sources.base import ListContext
from cliploom.transforms.sources.narrations import TextItems

if TYPE_CHECKING:
    from cliploom.transforms.inputs.listing import KnownListing


class LabelsKind(TextItems[LabelsSource]):
    """Class names put into templates; one class is one item."""

    Node = LabelsSource

    def list_items(self, node: LabelsSource, context: ListContext) -> KnownListing:
        """List the class names."""
        from cliploom.transforms.narrations.listing import list_labels

        return list_labels(context.name, node, context.base, context.objects)

"""What a kind of source is made of: extend ``SourceKind`` and offer it by the entry point group ``cliploom.sources``.

docs/sources.md has a complete example.
"""

from cliploom.schemas.errors import ItemError, SpecError
from cliploom.schemas.records import Failure, Listed, ShardItem
from cliploom.schemas.sources import SourceNode
from cliploom.transforms.inputs.inside import INSIDE, unlisted
from cliploom.transforms.inputs.listing import Found, KnownListing, clean_uid, find, listed_frame, uid_of
from cliploom.transforms.inputs.spool import open_input
from cliploom.transforms.narrations.spooled import SpooledText, TextItem, spool_texts
from cliploom.transforms.sources.base import FeatureRecipe, ListContext, SourceKind
from cliploom.transforms.sources.media import MediaItems
from cliploom.transforms.sources.narrations import TextItems
from cliploom.transforms.sources.vectors import VectorItems
from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings
from cliploom.transforms.store.vector_rows import VectorRows

__all__ = [
    "INSIDE",
    "Failure",
    "FeatureRecipe",
    "Found",
    "ItemCount",
    "ItemError",
    "KnownListing",
    "ListContext",
    "Listed",
    "MediaItems",
    "PartBuilder",
    "ShardItem",
    "SourceKind",
    "SourceNode",
    "SpecError",
    "SpooledText",
    "TextItem",
    "TextItems",
    "Timings",
    "VectorItems",
    "VectorRows",
    "clean_uid",
    "find",
    "listed_frame",
    "open_input",
    "spool_texts",
    "uid_of",
    "unlisted",
]

"""One search request of the API or the page: checked, bounded, and answered from one release."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cliploom.schemas.errors import SpecError
from cliploom.serving.served_store import ServedStore
from cliploom.serving.settings import ServeSettings
from cliploom.serving.views import hit_row
from cliploom.transforms.search.query_model import Query

Text = Annotated[str, Field(max_length=20_000)]


Texts = Annotated[list[Text], Field(max_length=10)]


class SearchRequest(BaseModel):
    """A search request.

    Attributes:
        text: a text to search for.
        like: a uid of the release, or ``uid@12.5s`` for one moment of it.
        vector: a vector of the width of the searched indexes.
        not_text, not_like: texts and uids that hits should be unlike.
        weights: one weight per given part, in the order text, like, vector, not_text, not_like.
        where: an SQL expression that items or rows must satisfy.
        in_uid: a uid; only rows of this item are searched.
        moments: the number of moments to return per hit.
        group: a metadata column; one hit is returned per value.
        facets: the columns whose values are counted.
        offset: the number of hits to skip.
        index: names of indexes; by default all that support the query.
        top: the number of hits.
        rank: the ranker that turns rows into hits.
        store: the name of the store; the first one by default.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text | None = None
    like: Text | None = None
    vector: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=16_384)] | None = None
    index: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=50)] | None = None
    not_text: Texts | None = None
    not_like: Texts | None = None
    weights: Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(max_length=20)] | None = None
    where: Text | None = None
    in_uid: Text | None = None
    moments: Annotated[int, Field(ge=0, le=20)] = 0
    group: Annotated[str, Field(max_length=200)] | None = None
    facets: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=10)] | None = None
    offset: Annotated[int, Field(ge=0, le=10_000)] = 0
    top: Annotated[int, Field(ge=1, le=100_000)] = 24
    rank: Literal["max", "mean", "bimatch"] = "max"
    store: Annotated[str, Field(max_length=200)] | None = None


def check_request(request: SearchRequest, settings: ServeSettings) -> None:
    """Reject a request that exceeds the limits.

    Raises:
        SpecError: a limit is exceeded; the message names it.
    """
    given = [("text", request.text), ("like", request.like), ("filter", request.where), ("item", request.in_uid)]
    given += [("text", each) for each in request.not_text or ()] + [("like", each) for each in request.not_like or ()]
    for name, value in given:
        if value is not None and len(value) > settings.max_text:
            raise SpecError(
                f"The {name} to search for has {len(value):,} characters; at most {settings.max_text:,} are accepted."
            )
        if value is not None and any(ord(c) < 32 and c not in "\t\n\r" for c in value):
            raise SpecError(f"The {name} to search for contains control characters; remove them.")
    if request.top > settings.max_top:
        raise SpecError(f"top is {request.top}; at most {settings.max_top} hits are returned at a time.")


def search(store: ServedStore, request: SearchRequest) -> dict[str, Any]:
    """Run a search on a release.

    Returns:
        The release, the hits, and times in milliseconds: ``model_ms`` for encoding the text, ``took_ms`` in total.
    """
    begun = time.perf_counter()
    modelled = begun
    if request.text is not None and request.text.strip() and not request.like:
        for name in request.index or store.text_indexes:
            if name in store.text_indexes:
                store.text_vector(store.release.features[store.release.indexes[name].feature].model, request.text)
        modelled = time.perf_counter()
    parts = store.query_parts(
        request.text, request.like, request.vector, request.not_text or (), request.not_like or (), request.weights
    )
    query = Query(
        parts,
        where=request.where or None,
        in_uid=request.in_uid,
        index=tuple(request.index) if request.index else None,
        top=request.top,
        offset=request.offset,
        rank=request.rank,
        moments=request.moments,
        group=request.group or None,
        facets=tuple(request.facets or ()),
    )
    found = store.ask(query)
    ended = time.perf_counter()
    return {
        "release": store.release.release,
        "hits": [hit_row(hit) for hit in found.hits],
        "total": found.total,
        "fit": found.fit,
        "message": found.message,
        "facets": {name: [list(count) for count in counts] for name, counts in found.facets.items()},
        "model_ms": round(1000 * (modelled - begun), 2),
        "took_ms": round(1000 * (ended - begun), 2),
    }

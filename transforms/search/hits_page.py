"""Renders search hits as one self-contained HTML page: thumbnails, times, scores, links to the moment in the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.search.html_page import clock, escaped, media_link, named, page, picture
from cliploom.transforms.search.thumbnails import ThumbnailCache, find_media

if TYPE_CHECKING:
    from cliploom.transforms.readers.release_tables import ReleaseReader
    from cliploom.transforms.search.searching import Hit

MOST_PICTURES = 200
"""Maximum number of hits with a picture; thousands of pictures would make the page slow."""

_WIDTH = 400
_MOST_LABELS = 8
_MOST_LETTERS = 300


def hits_page(
    store: ReleaseReader, hits: Sequence[Hit], query: str, message: str = "", cache: ThumbnailCache | None = None
) -> str:
    """Return the HTML page of a search.

    Args:
        store: the store that was searched.
        hits: the hits, best first.
        query: a description of the query for users.
        message: a further sentence about the result, such as that nothing fits.
        cache: the cache of thumbnails; the user's by default.
    """
    cache = cache or ThumbnailCache()
    best = max((abs(hit.score) for hit in hits), default=0.0) or 1.0
    cards = [_card(store, hit, place, best, cache) for place, hit in enumerate(hits, 1)]
    found = f"{len(hits)} hit{'' if len(hits) == 1 else 's'}"
    body = f"<h1>{named(query)}</h1>"
    body += f'<p class="dim">{found} in {named(store.uri)}, release {store.release.release}</p>'
    if message or not hits:
        body += f'<p class="notice">{escaped(message or "Nothing was found.")}</p>'
    return page(f"{query} - cliploom", f'{body}<main class="grid">{"".join(cards)}</main>')


def _card(store: ReleaseReader, hit: Hit, place: int, best: float, cache: ThumbnailCache) -> str:
    data, reason, uri = _shown(store, hit, place, cache)
    still = hit.start_s is None or hit.start_s == hit.end_s == 0  # an image has no duration
    at = "" if still else clock(hit.start_s or 0.0)
    image = picture(data, reason, hit.uid, at)
    link = media_link(uri, hit.start_s)
    if link:
        image = f'<a href="{escaped(link)}">{image}</a>'
    share = f"{100 * (max(0.0, hit.score) / best if hit.fit is None else hit.fit):.0f}"
    fit = "" if hit.fit is None else f" fit {hit.fit:.2f}"
    lines = [
        f'<div class="name">{place}. {named(hit.uid)}</div>',
        f'<div class="score"><span>{hit.score:.3f}{fit}</span><span class="meter"><i style="width:{share}%"></i></span>'
        f"<span>{named(hit.index)}</span></div>",
    ]
    if hit.text:
        lines.append(f"<div>{named(_short(hit.text))}</div>")
    lines += [_moments(hit, uri), _labels(hit), _metadata(hit)]
    name = PurePosixPath(uri).name if link else uri
    lines.append(f'<div class="dim">{named(name)}</div>')
    return f'<article class="card">{image}<div class="about">{"".join(lines)}</div></article>'


def _shown(store: ReleaseReader, hit: Hit, place: int, cache: ThumbnailCache) -> tuple[bytes | None, str, str]:
    """Return the picture of a hit or the reason why there is none, and the file to link to."""
    try:
        media = find_media(store, hit.uid, hit.source)
    except CliploomError as error:
        return None, str(error), hit.uri
    if place > MOST_PICTURES:
        return None, f"Only the first {MOST_PICTURES} hits have pictures.", media.uri
    try:
        return cache.get(store, hit.uid, hit.start_s, _WIDTH, hit.source), "", media.uri
    except CliploomError as error:
        return None, str(error), media.uri


def _moments(hit: Hit, uri: str) -> str:
    """Return links to further moments of the item, if the search requested them."""
    moments: Sequence[Any] = getattr(hit, "moments", ())
    chips = []
    for moment in moments:
        if moment.start_s is None:
            continue
        text = clock(moment.start_s) if moment.end_s is None else f"{clock(moment.start_s)} - {clock(moment.end_s)}"
        link = media_link(uri, moment.best_s if moment.best_s is not None else moment.start_s)
        chips.append(f'<a href="{escaped(link)}">{text}</a>' if link else f"<span>{text}</span>")
    return f'<div class="chips">{"".join(chips)}</div>' if chips else ""


def _labels(hit: Hit) -> str:
    chips = []
    for label in hit.labels[:_MOST_LABELS]:
        score = "" if label.score is None else f" {label.score:.0%}"
        chips.append(f"<span>{named(label.name)}{score}</span>")
    return f'<div class="chips">{"".join(chips)}</div>' if chips else ""


def _metadata(hit: Hit) -> str:
    words = " · ".join(f"{named(key)}: {named(_short(str(value)))}" for key, value in hit.metadata.items())
    return f'<div class="dim">{words}</div>' if words else ""


def _short(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"

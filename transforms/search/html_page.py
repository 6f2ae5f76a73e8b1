"""Building blocks of a self-contained HTML page: style, escaping, embedded pictures, plots as SVG.

Pages load no resources: their content security policy forbids scripts and external resources; pictures are data URIs.
All text from a store passes through ``escaped``.
"""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cliploom.schemas.errors import SpecError
from cliploom.transforms.inputs.addresses import is_web
from cliploom.transforms.store.local_folder import arriving
from cliploom.transforms.store.uris import is_remote, uri_to_path

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--dim:#5d6b7c;--page:#f4f6f8;--card:#fff;--line:#dde3ea;--mark:#2f6fde;
--soft:#e8effc;--bad:#b3361b}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf2;--dim:#93a1b3;--page:#12161c;--card:#1b212a;--line:#2c3541;
--mark:#6ea0f7;--soft:#22304a;--bad:#f08a70}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:28px 24px 48px;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:24px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:17px;margin:34px 0 10px}
p{margin:4px 0}
a{color:var(--mark);text-decoration:none}a:hover{text-decoration:underline}
bdi{unicode-bidi:isolate;overflow-wrap:anywhere}
.dim{color:var(--dim)}.bad{color:var(--bad)}
.notice{margin:14px 0;padding:10px 14px;border-radius:8px;background:var(--soft)}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(260px,1fr));margin-top:18px}
.small{grid-template-columns:repeat(auto-fill,minmax(136px,1fr));gap:10px}
.card{display:flex;flex-direction:column;background:var(--card);border:1px solid var(--line);border-radius:10px;
overflow:hidden}
.picture{display:flex;align-items:center;justify-content:center;aspect-ratio:4/3;background:#0c0f13;color:#aab6c5;
font-size:13px;text-align:center;position:relative}
.picture img{width:100%;height:100%;object-fit:contain;display:block}
.picture>span{padding:14px;overflow-wrap:anywhere}
.picture .at{position:absolute;right:8px;bottom:8px;padding:1px 7px;border-radius:5px;background:#000b;color:#fff;
font-variant-numeric:tabular-nums}
.about{padding:10px 12px 12px;display:flex;flex-direction:column;gap:4px;flex:1}
.small .about{padding:6px 8px 8px;font-size:12.5px}
.name{font-weight:600}
.score{display:flex;align-items:center;gap:8px;font-size:13px;color:var(--dim);font-variant-numeric:tabular-nums}
.meter{flex:1;height:5px;border-radius:3px;background:var(--line);overflow:hidden}
.meter i{display:block;height:100%;background:var(--mark)}
.chips{display:flex;flex-wrap:wrap;gap:5px;font-size:12.5px}
.chips>*{padding:1px 8px;border-radius:10px;background:var(--soft);max-width:100%;overflow-wrap:anywhere}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin-top:18px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 18px;min-width:120px}
.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:7px 12px;text-align:left;vertical-align:top;border-top:1px solid var(--line);overflow-wrap:anywhere}
thead th{border-top:0;color:var(--dim);font-weight:500;white-space:nowrap}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
svg{display:block;width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
svg text{fill:var(--ink);font-size:13px}svg .bar{fill:var(--mark)}svg .dim{fill:var(--dim)}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_CONTROL = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f]")
_BAR_HEIGHT, _ROW_HEIGHT, _NAMES, _PLOT = 14, 26, 190, 560


def escaped(text: object) -> str:
    """Return text that is safe in an element or a quoted attribute; control characters become visible.

    >>> escaped('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(_CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text)), quote=True)


def named(text: object) -> str:
    """Return an untrusted name, such as a uid, isolated so that its writing direction affects nothing around it."""
    return f"<bdi>{escaped(text)}</bdi>"


def page(title: str, body: str) -> str:
    """Return a complete page.

    Args:
        title: plain text.
        body: HTML.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def write_page(path: Path, text: str) -> None:
    """Write a page atomically.

    Raises:
        SpecError: the file can't be written.
    """
    path = path.expanduser()
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        with arriving(path) as local:
            local.write_text(text, encoding="utf-8", errors="backslashreplace")
            mask = os.umask(0)
            os.umask(mask)
            local.chmod(0o666 & ~mask)
    except OSError as error:
        raise SpecError(
            f"{str(path)!r} can't be written: {error.strerror}; choose a file in a folder that you can write to."
        ) from None


def picture(data: bytes | None, reason: str = "", alt: str = "", at: str = "") -> str:
    """Return a WebP picture as a data URI element, or the reason why there is none."""
    corner = f'<span class="at">{escaped(at)}</span>' if at else ""
    if data is None:
        return f'<div class="picture"><span>{escaped(reason)}</span>{corner}</div>'
    source = base64.b64encode(data).decode("ascii")
    return f'<div class="picture"><img src="data:image/webp;base64,{source}" alt="{escaped(alt)}">{corner}</div>'


def media_link(uri: str, at_s: float | None = None) -> str:
    """Return the URL that opens a file at a moment; empty for objects in buckets, which browsers cannot open.

    >>> media_link("/clips/a b.mp4", 12.5), media_link("s3://bucket/a.mp4")
    ('file:///clips/a%20b.mp4#t=12.5', '')
    """
    if is_web(uri):
        address = uri
    elif is_remote(uri) or not uri:
        return ""
    else:
        path = uri_to_path(uri)
        if not path.is_absolute():
            return ""
        address = path.as_uri()
    return address if not at_s or at_s <= 0 else f"{address}#t={at_s:g}"


def clock(seconds: float) -> str:
    """Return a moment in the notation of media players.

    >>> clock(7.25), clock(75), clock(3725.04)
    ('0:07.25', '1:15', '1:02:05.04')
    """
    hundredths = max(0, round(seconds * 100))
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    whole, part = divmod(rest, 100)
    tail = f".{part:02d}".rstrip("0") if part else ""
    return f"{hours}:{minutes:02d}:{whole:02d}{tail}" if hours else f"{minutes}:{whole:02d}{tail}"


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as an HTML table; numbers are right-aligned, empty columns are omitted."""
    columns = [column for column in columns if any(row.get(column) not in (None, "") for row in rows)]
    numeric = {c for c in columns if all(isinstance(row.get(c), int | float | None) for row in rows)}

    def cell(tag: str, column: str, value: Any) -> str:
        kind = ' class="number"' if column in numeric else ""
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        return f"<{tag}{kind}>{named('' if text is None else text)}</{tag}>"

    head = "".join(cell("th", column, column) for column in columns)
    lines = ["".join(cell("td", column, row.get(column)) for column in columns) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def bars(values: Mapping[str, float], shown: Mapping[str, str]) -> str:
    """Return a plot of horizontal bars.

    Args:
        values: the length of each bar by name; at least 0.
        shown: the text after each bar by name.
    """
    longest = max(values.values(), default=0.0) or 1.0
    lines = []
    for number, (name, value) in enumerate(values.items()):
        top = 12 + number * _ROW_HEIGHT
        width = max(1.0, _PLOT * value / longest)
        lines.append(
            f'<text x="{_NAMES - 12}" y="{top + 12}" text-anchor="end">{escaped(name)}</text>'
            f'<rect class="bar" x="{_NAMES}" y="{top}" width="{width:.1f}" height="{_BAR_HEIGHT}" rx="3"/>'
            f'<text class="dim" x="{_NAMES + width + 8:.1f}" y="{top + 12}">{escaped(shown.get(name, ""))}</text>'
        )
    height = 14 + len(values) * _ROW_HEIGHT
    return f'<svg viewBox="0 0 900 {height}" role="img">{"".join(lines)}</svg>'

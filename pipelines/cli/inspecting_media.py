"""``cliploom inspect`` for videos, GIFs and images: recognises them and describes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliploom.schemas.errors import ItemError, SpecError

if TYPE_CHECKING:
    from cliploom.schemas.sampling import Sampling

DEFAULT_SAMPLE = "every: 1s"
_SHOWN = 5
_MEDIA = re.compile(
    rb"....ftyp|\x1aE\xdf\xa3|RIFF....(AVI |WEBP)|GIF8|\xff\xd8\xff|\x89PNG|FLV\x01|OggS|\x30\x26\xb2\x75\x8e\x66"
    rb"|\x06\x0e\x2b\x34|\0\0\x01[\xba\xb3]|....(moov|mdat|wide|free|skip)|DKIF|YUV4MPEG2|II\*\0|MM\0\*|\.RMF",
    re.DOTALL,
)
_KINDS = {"video": "video", "gif": "animation", "image": "image"}


def is_media(head: bytes) -> bool:
    """Return whether a file starts with the magic bytes of a video, GIF or image."""
    return _MEDIA.match(head) is not None


def inspect_media(path: Path, samples: Sequence[str], shown: int, *, decoded: bool = False) -> dict[str, Any]:
    """Describe a media file as plain values.

    Args:
        path: a local file.
        samples: samplings as a spec writes them, such as ``every: 1s``.
        shown: maximum rows to list of each sampling.
        decoded: whether to decode the frames that the samplings take.

    Raises:
        SpecError: if it is not media, is damaged, or a sampling is invalid.
    """
    from cliploom.schemas.media import MediaLimits
    from cliploom.transforms.media.describe import describe_media

    chosen = [parse_sample(text) for text in samples or [DEFAULT_SAMPLE]]
    try:
        return describe_media(path, MediaLimits(), chosen, shown=shown, decoded=decoded)
    except ItemError as error:
        raise SpecError(str(error)) from None


def parse_sample(text: str) -> Sampling:
    """Parse a sampling as written in a spec.

    >>> parse_sample("every: 1s"), parse_sample("{uniform: 8}")
    (Every(every=1.0, max_frames=None, distinct=None), Uniform(uniform=8, distinct=None))
    >>> parse_sample("keyframes")
    Keyframes(keyframes=True, distinct=None)

    Raises:
        SpecError: if it is not a sampling; quotes it.
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from cliploom.schemas.sampling import Sampling

    adapter: TypeAdapter[Sampling] = TypeAdapter(Sampling)
    try:
        value = yaml.safe_load(text)
        if isinstance(value, str) and ":" in value:
            value = yaml.safe_load(text.replace(":", ": "))
        return adapter.validate_python(value)
    except yaml.YAMLError:
        raise SpecError(f"--sample {text!r} is not YAML; write it as in a spec, such as 'every: 1s'.") from None
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ").rstrip(".")
        raise SpecError(f"--sample {text!r}: {reason}; write it as in a spec, such as 'every: 1s'.") from None


def media_text(found: dict[str, Any]) -> Iterator[str]:
    """Return the description as lines of at most 80 columns."""
    from cliploom.pipelines.console import human_bytes

    kind, name = _KINDS[found["kind"]], found.get("container_name") or found["container"].upper()
    yield found["path"]
    lasts = f", {clock(found['duration_s'])}" if found["kind"] != "image" else ""
    yield from _line(f"{kind} in {name}, {human_bytes(found['size'])}{lasts}")
    for stream in found["streams"]:
        mark = " (the picture)" if stream["index"] == found.get("picture_stream") else ""
        yield from _line(f"stream {stream['index']}: {_stream(stream)}{mark}")
    yield from _line(f"picture: {_picture(found)}")
    yield from _line(f"colour: {_colour(found)}")
    if found["kind"] != "image":
        yield from _times(found)
    decoded = any("rows_decoded" in sample for sample in found["samples"])
    none = "none found" if decoded else "none found without decoding (--decode looks closer)"
    yield from _line(f"damage: {found['damage'] or none}")
    for sample in found["samples"]:
        yield from _sample(sample, found)


def _line(text: str) -> list[str]:
    from cliploom.pipelines.health.findings import wrapped

    return wrapped(text, "  ", 80, hang=4)


def clock(seconds: float) -> str:
    """Format seconds as h:mm:ss.

    >>> clock(3723.5), clock(0.04)
    ('1:02:03.5', '0:00:00.04')
    """
    millis = round(seconds * 1000)
    text = f"{millis // 3_600_000}:{millis // 60_000 % 60:02}:{millis // 1000 % 60:02}.{millis % 1000:03}"
    return text.rstrip("0").rstrip(".") if not text.endswith(":00.000") else text.removesuffix(".000")


def _stream(stream: dict[str, Any]) -> str:
    codec = stream["codec"] or "unknown codec"
    said = [f"{stream['type']} {codec}" + (f" ({stream['profile']})" if stream["profile"] else "")]
    if stream.get("width"):
        said.append(f"{stream['width']} x {stream['height']}")
    if stream.get("cover"):
        said.append("cover picture")
    elif stream.get("fps"):
        said.append(f"{stream['fps']:.6g} fps by the header")
    if stream.get("channels"):
        said.append(f"{stream['channels']} channels, {stream['sample_rate']} Hz")
    if stream["language"] and stream["language"] != "und":
        said.append(stream["language"])
    return ", ".join(said)


def _picture(found: dict[str, Any]) -> str:
    said = f"{found['width']} x {found['height']}"
    if found["rotation"]:
        said += f", turned by {found['rotation']} degrees clockwise"
    aspect = found.get("pixel_aspect", "1:1")
    said += ", square pixels" if aspect == "1:1" else f", pixels {aspect}"
    if found["shown"] != [found["width"], found["height"]]:
        said += f", shown as {found['shown'][0]} x {found['shown'][1]}"
    return said + (", interlaced (features see it deinterlaced)" if found.get("interlaced") else "")


def _colour(found: dict[str, Any]) -> str:
    if "mode" in found:
        said = [found["mode"], "transparent" if found["transparent"] else "", found["colour"]["profile"]]
        said += ["with a film behind it, which is not read"] if found.get("film") else []
        return ", ".join(filter(None, said))
    colour, pixels = found["colour"], found.get("pixels")
    said = [f"{pixels['format']} ({pixels['bits']} bits)"] if pixels else []
    standards = [colour[name] for name in ("matrix", "primaries", "transfer") if colour[name]]
    said += [" ".join(dict.fromkeys(standards))] if standards else ["no standard named"]
    said += [f"{colour['range']} range"] if colour["range"] else []
    if colour["transfer"] in ("smpte2084", "arib_std_b67"):
        said.append("HDR (features see it as BT.709)")
    return ", ".join(said)


def _times(found: dict[str, Any]) -> Iterator[str]:
    frames, keys = found["frames"], found["keyframes"]
    claimed = f" of {found['frames_claimed']:,} promised" if found["frames_claimed"] > frames else ""
    from cliploom.pipelines.console import counted

    each = f", one each {found['duration_s'] / keys:.3g} s" if keys else ""
    yield from _line(f"frames: {frames:,}{claimed}, {counted(keys, 'key frame')}{each}")
    rate = ""
    if found["constant_rate"] is not None:
        gaps = f"{found['shortest_gap_s']:.4g} to {found['longest_gap_s']:.4g} s apart"
        rate = ", constant rate" if found["constant_rate"] else f", variable rate ({gaps})"
    yield from _line(f"times: {found['start_s']:.6g} s to {found['end_s']:.6g} s, {found['fps']:.6g} fps{rate}")


def _sample(sample: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    from cliploom.pipelines.console import counted

    wide = sample["frames_in_a_row"]
    rows = counted(sample["rows"], "row") + (f" of {wide} frames" if wide > 1 else "")
    said = f"{rows} from {sample['frames_wanted']:,} of {counted(found['frames'], 'frame')}"
    if sample["black_frames"]:
        said += f" and {sample['black_frames']:,} black ones"
    if times := [f"{row['start_s']:.6g}" for row in sample["first"][:_SHOWN]]:
        said += f"; at {', '.join(times)}{', ...' if sample['rows'] > len(times) else ''} s"
    if "rows_decoded" in sample:
        whole = sample["rows_decoded"] == sample["rows"] and not sample["lost"]
        said += "; all decode" if whole else f"; {sample['rows_decoded']:,} decode: {sample['lost']}"
    yield from _line(f"sample {spelt(sample['sample'])}: {said}")


def spelt(value: Any) -> str:
    """Format a sampling on one line, as written in a spec.

    >>> spelt({"every": "1s"}), spelt({"window": {"frames": 32, "stride": 16}}), spelt({"keyframes": True})
    ('every: 1s', 'window: {frames: 32, stride: 16}', 'keyframes: true')
    """
    if isinstance(value, dict):
        inner = ", ".join(
            f"{name}: {f'{{{spelt(each)}}}' if isinstance(each, dict) else spelt(each)}" for name, each in value.items()
        )
        return inner
    return str(value).lower() if isinstance(value, bool) else str(value)

"""Checks of the machine: codecs, processor and precision, memory, disk and limits."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cliploom.pipelines.console import human_bytes
from cliploom.pipelines.health.findings import Finding

CODECS = (
    "h264",
    "hevc",
    "vvc",
    "vp8",
    "vp9",
    "av1",
    "mpeg1video",
    "mpeg2video",
    "mpeg4",
    "h263",
    "mjpeg",
    "prores",
    "dnxhd",
    "theora",
    "wmv3",
    "vc1",
    "ffv1",
    "gif",
    "apng",
    "png",
)
_IMAGES = {"jpg": "JPEG", "webp": "WebP", "avif": "AVIF", "libtiff": "TIFF", "zlib": "PNG"}
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
_WORKER_BYTES = 1_500_000_000
_SPOOL_BYTES, _LEAST_BYTES = 5_000_000_000, 200_000_000
_FILES = 1024


def codecs() -> Iterator[Finding]:
    """Check which videos and images this build decodes."""
    import av
    from PIL import features

    section = "Codecs"
    decoders = {name: _decoder(name) for name in CODECS}
    usable = [name if decoder == name else f"{name} ({decoder})" for name, decoder in decoders.items() if decoder]
    library = ".".join(map(str, av.library_versions["libavcodec"]))
    yield Finding(section, f"video, libavcodec {library}", "ok", ", ".join(usable))
    if missing := [name for name, decoder in decoders.items() if not decoder]:
        yield Finding(section, "video", "note", f"can't be decoded here: {', '.join(missing)}")
    images = [kind for name, kind in _IMAGES.items() if features.check(name)]
    yield Finding(section, "images", "ok", f"{', '.join(images)}, BMP, GIF; HEIC by libavcodec (not in tiles)")
    if missing := [kind for name, kind in _IMAGES.items() if not features.check(name)]:
        fix = "pip install --upgrade pillow"
        yield Finding(section, "images", "note", f"can't be read here: {', '.join(missing)}", fix)


def _decoder(codec: str) -> str:
    """Return the name of the decoder that works without special hardware; empty if there is none."""
    import av

    # libav's own AV1 decoder requires a graphics card.
    for name in ("libdav1d", "libaom-av1") if codec == "av1" else (codec,):
        try:
            return str(av.codec.Codec(name, "r").name)
        except (ValueError, LookupError):
            continue
    return ""


def processor() -> Iterator[Finding]:
    """Check the processor's features, and what they mean for ``precision``."""
    import openvino as ov

    section = "Processor"
    cores = len(os.sched_getaffinity(0))
    yield Finding(section, _cpu_name(), "ok", f"{cores} cores for this process{_quota()}")
    flags = _cpu_flags()
    yield Finding(section, "features", "ok", ", ".join(flag for flag in _FLAGS if flag in flags) or "none of note")
    able = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    yield Finding(
        section,
        "precision f32",
        "ok",
        "as the originals compute; other kinds of processors may differ in the last digits",
    )
    if able:
        fast = any(flag in flags for flag in ("amx_bf16", "avx512_bf16"))
        said = "faster (about 1.7 times), vectors differ a little: cosine of .9976 or more against f32"
        yield Finding(section, "precision bf16", "ok", said if fast else f"possible, not faster here; {said}")
    else:
        said = "not supported here; features with precision: bf16 can't be computed or searched by text"
        yield Finding(section, "precision bf16", "note", said, "use precision: f32 (the default)")


def memory() -> Iterator[Finding]:
    """Check the memory for workers."""
    section = "Memory and disk"
    total, available = _memory("MemTotal"), _memory("MemAvailable")
    limit = _cgroup_memory()
    free = min(available, limit) if limit else available
    said = f"{human_bytes(available)} of {human_bytes(total)} are free"
    if limit and limit < total:
        said += f"; this container may use {human_bytes(limit)}"
    workers = max(0, free // _WORKER_BYTES)
    said += f", enough for about {workers} worker processes of {human_bytes(_WORKER_BYTES)} and their models"
    if workers:
        yield Finding(section, "memory", "ok", said)
    else:
        yield Finding(section, "memory", "problem", said, "free some, or use a larger machine")
    for name, kind in (("RLIMIT_AS", "-v"), ("RLIMIT_DATA", "-d")):
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            said = f"limited to {human_bytes(soft)} a process (ulimit {kind}); libraries may not load"
            yield Finding(section, "memory", "note", said, f"ulimit {kind} unlimited")


def disk(store: Path | None) -> Iterator[Finding]:
    """Check the disk space for copies, and for the store.

    Args:
        store: the folder of a local store; None if there is none.
    """
    section = "Memory and disk"
    temporary = Path(tempfile.gettempdir())
    yield _room(section, "temporary files", temporary, _SPOOL_BYTES, "set TMPDIR to a larger disk")
    if store is not None:
        yield _room(section, "store", store, _LEAST_BYTES * 5, "`cliploom vacuum STORE` removes old releases' files")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        said = f"only {soft} at a time; runs with many workers need more"
        yield Finding(section, "open files", "note", said, f"ulimit -n {_FILES * 4}")
    else:
        yield Finding(section, "open files", "ok", f"{soft} at a time")


def _room(section: str, name: str, folder: Path, wanted: int, fix: str) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(section, name, "problem", f"{folder} can't be written to ({error.strerror})", fix)
    said = f"{human_bytes(free)} free in {folder}"
    if free < _LEAST_BYTES:
        return Finding(section, name, "problem", said, fix)
    if free < wanted:
        return Finding(section, name, "note", f"{said}; copies of inputs and models take up to 5 GB", fix)
    return Finding(section, name, "ok", said)


def _cpu_name() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "processor"


def _cpu_flags() -> frozenset[str]:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _quota() -> str:
    """Return the CPU quota of a container, in words; empty if there is none."""
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        return f", of which this container may use {int(quota) / int(period):.1f}"
    return ""


def _memory(key: str) -> int:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def _cgroup_memory() -> int:
    text = _read("/sys/fs/cgroup/memory.max").strip()
    return int(text) if text.isdigit() else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

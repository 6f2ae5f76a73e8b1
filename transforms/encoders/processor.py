"""Processor features that affect the results or the speed of quantised models."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

_NAMES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
)
_HIDDEN = {
    "SSE41": set(_NAMES),
    "AVX": set(_NAMES),
    "AVX2": set(_NAMES) - {"avx2"},
    "AVX2_VNNI": set(_NAMES) - {"avx2", "avx_vnni"},
    "AVX512_CORE": {"avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"},
    "AVX512_CORE_VNNI": {"avx512_bf16", "amx_bf16", "amx_int8"},
    "AVX512_CORE_BF16": {"amx_bf16", "amx_int8"},
}
"""Maps a value of OV_CPU_MAX_ISA to the features that it hides from OpenVINO."""


@functools.cache
def _present(cpuinfo: Path) -> frozenset[str]:
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, [])) & frozenset(_NAMES)


def processor_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the features that OpenVINO may use, such as ``x86_64 avx2 avx_vnni``, respecting OV_CPU_MAX_ISA."""
    found = _present(cpuinfo) - _HIDDEN.get(os.environ.get("OV_CPU_MAX_ISA", "").upper(), set())
    return " ".join([platform.machine(), *(name for name in _NAMES if name in found)])


def sums_exactly(features: str) -> bool:
    """Return whether 8-bit products are accumulated without overflow: VNNI, AMX or Arm's dot products.

    >>> sums_exactly("x86_64 avx2"), sums_exactly("x86_64 avx2 avx_vnni")
    (False, True)
    """
    return bool({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"} & set(features.split()))

"""Elements as bytes: a step encodes what crosses between Beam stages itself, before Beam sees it.

Beam writes an element into a buffer that another thread may flush (``data_buffer_time_limit_ms``). A coder in Python,
such as Beam's own for dataclasses and strings, can be interrupted by that thread after the element's header is written,
and the reader then decodes garbage. Plain ``bytes`` are written atomically by compiled code.
"""

from __future__ import annotations

import pickle
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from cliploom.schemas.errors import StoreError

_CHECKSUM = struct.Struct("<I")


def encode_element(value: object) -> bytes:
    """Return a value as bytes with a checksum.

    >>> decode_element(encode_element(("a", 1)))
    ('a', 1)
    """
    body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return _CHECKSUM.pack(zlib.crc32(body)) + body


def decode_element(data: bytes) -> Any:
    """Return the value encoded by ``encode_element``. Decode only elements of this program's own workers.

    Raises:
        StoreError: the bytes differ from those that were sent.
    """
    body = memoryview(data)[_CHECKSUM.size :]
    if len(data) < _CHECKSUM.size or _CHECKSUM.unpack_from(data)[0] != zlib.crc32(body):
        raise StoreError(
            f"An element of {len(data)} bytes was damaged between two stages; nothing was published, run again: "
            "finished parts are kept."
        )
    return pickle.loads(body)  # noqa: S301 - the bytes are of this program's own workers


@beam.typehints.with_output_types(bytes)
class EncodedDoFn(beam.DoFn):  # type: ignore[misc]
    """A step whose elements and side inputs are bytes outside, and values inside."""

    def __init__(self, step: beam.DoFn) -> None:
        super().__init__()
        self._step = step

    def process(
        self,
        element: bytes,
        first: list[bytes] | None = None,
        second: list[bytes] | None = None,
        third: list[bytes] | None = None,
    ) -> Iterator[bytes]:
        """Decode the inputs, run the step, encode its outputs."""
        sides = [[decode_element(each) for each in side] for side in (first, second, third) if side is not None]
        for made in self._step.process(decode_element(element), *sides) or ():
            yield encode_element(made)


class Spread(beam.PTransform[beam.PCollection[Any], beam.PCollection[Any]]):  # type: ignore[misc]
    """Spread values over the workers; they travel as bytes."""

    def expand(self, pcoll: beam.PCollection[Any]) -> beam.PCollection[Any]:
        """Encode, shuffle, decode."""
        return (
            pcoll
            | "Encode" >> beam.Map(encode_element).with_output_types(bytes)
            | "Reshuffle" >> beam.Reshuffle()
            | "Decode" >> beam.Map(decode_element)
        )

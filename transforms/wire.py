"""Elements as bytes: a step encodes what crosses between Beam stages itself, before Beam sees it.

Beam writes an element into a buffer that another thread may flush (``data_buffer_time_limit_ms``). A coder in Python,
such as Beam's own for dataclasses and strings, can be interrupted by that thread after the element's header is written,
and the reader then decodes garbage. Plain ``bytes`` are written atomically by compiled code.
"""

from __future__ import annotations

import functools
import pickle
import struct
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar, get_args, get_type_hints

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


@functools.cache
def encoded(kind: Any) -> type[bytes]:
    """Return the type of elements that are values of ``kind`` as bytes.

    Beam compares such types while a graph is built, so that a step is not applied to elements of another step. Elements
    are plain bytes, and are sent as such.

    >>> encoded(int) is encoded(int), encoded(int).__name__
    (True, 'Encoded[int]')
    """
    name = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    found = type(f"Encoded[{name}]", (bytes,), {"__module__": __name__})
    beam.coders.registry.register_coder(found, beam.coders.BytesCoder)
    return found


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


class Step(beam.ParDo):  # type: ignore[misc]
    """A step whose elements and side inputs travel as bytes; their types are those of ``do_fn.process``.

    Attributes:
        do_fn: the class that does the work on values.
    """

    do_fn: ClassVar[type[beam.DoFn]]

    def __init__(self, *arguments: Any) -> None:
        """Add the side inputs to the step.

        Args:
            arguments: of ``do_fn``, and after them its side inputs (``AsList``), in the order of ``process``.

        Raises:
            TypeError: if there are more or fewer side inputs than ``process`` takes, or their types are others.
        """
        sides = [each for each in arguments if isinstance(each, beam.pvalue.AsList)]
        plain = [each for each in arguments if not isinstance(each, beam.pvalue.AsList)]
        super().__init__(EncodedDoFn(self.do_fn(*plain)), *sides)
        hints = get_type_hints(self.do_fn.process)
        (made,) = get_args(hints.pop("return"))
        element, *listed = hints.values()
        if len(listed) != len(sides):
            raise TypeError(f"{type(self).__name__} takes {len(listed)} side inputs, not {len(sides)}")
        # Beam does not compare the types of side inputs.
        for side, wanted in zip(sides, (encoded(get_args(each)[0]) for each in listed), strict=True):
            if side.pvalue.element_type is not wanted:
                found = side.pvalue.element_type
                raise TypeError(f"{type(self).__name__} takes a side input of {wanted.__name__}, not of {found}")
        self.with_input_types(encoded(element))
        self.with_output_types(encoded(made))


class Spread(beam.PTransform[beam.PCollection[Any], beam.PCollection[Any]]):  # type: ignore[misc]
    """Spread values over the workers; they travel as bytes, and keep their type."""

    def expand(self, pcoll: beam.PCollection[Any]) -> beam.PCollection[Any]:
        """Encode, shuffle, decode."""
        return (
            pcoll
            | "Encode" >> beam.Map(encode_element).with_output_types(encoded(pcoll.element_type))
            | "Reshuffle" >> beam.Reshuffle()
            | "Decode" >> beam.Map(decode_element).with_output_types(pcoll.element_type)
        )

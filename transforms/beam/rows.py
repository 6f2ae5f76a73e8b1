"""Elements of ``cliploom.beam``, all with Beam schemas, so that SQL, YAML, Parquet and BigQuery take them.

Rows with vectors have one column for each output of the encoder, so their type depends on the encoder: it is made by
``media_rows`` and ``text_rows``. This module does not postpone annotations, because Beam reads them as types.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.typehints.row_type import RowTypeConstraint

from cliploom.schemas.errors import SpecError

FAILURES = "failures"
"""Tag of the second output of every transform."""
ROWS = "rows"
"""Tag of the main output."""


class MediaFile(NamedTuple):
    """A media file to read.

    Attributes:
        uri: path, ``file://`` URI, http(s) address, or a URI of any file system that Beam knows.
        uid: name of the file in rows and failures.
    """

    uri: str
    uid: str


class Frame(NamedTuple):
    """A sampled picture, or a window of pictures.

    Attributes:
        uri: of the file.
        uid: of the file.
        ordinal: number of the planned sample in the file, from 0; a sample that failed leaves its number free.
        start_s: seconds from the start of the video.
        end_s: seconds at which the next sample, or the end of the window, begins.
        frame: index in the file of the (first) picture, in presentation order.
        shape: [height, width, 3], or [pictures, height, width, 3] for a window.
        pixels: uint8 values in C order; ``pixels_of`` returns them as an array.
    """

    uri: str
    uid: str
    ordinal: int
    start_s: float
    end_s: float
    frame: int
    shape: Sequence[int]
    pixels: bytes


class Failure(NamedTuple):
    """What could not be used, with the fault fields of the table ``failures`` of a store.

    Attributes:
        uri: of the file; empty for texts.
        uid: of the file or text.
        stage: ``probe``, ``decode`` or ``encode``.
        type: such as ``NoVideo``, ``Damaged``, ``Unreadable``, ``Encode``.
        message: one sentence.
        transient: trying again later may help.
        partial: some rows were made; ``got`` of ``expected``.
        expected: rows that were planned, as far as that is known.
        got: rows that were made.
    """

    uri: str
    uid: str
    stage: str
    type: str
    message: str
    transient: bool
    partial: bool
    expected: int
    got: int


for _type in (MediaFile, Frame, Failure):
    beam.coders.registry.register_coder(_type, beam.coders.RowCoder)

_MEDIA_FIELDS: tuple[tuple[str, type], ...] = (
    ("uri", str),
    ("uid", str),
    ("ordinal", int),
    ("start_s", float),
    ("end_s", float),
    ("frame", int),
)


def media_rows(outputs: Sequence[str]) -> RowTypeConstraint:
    """Return the type of rows with vectors of media: the fields of ``Frame`` up to ``frame``, then the outputs.

    Raises:
        SpecError: if an output cannot be a column.
    """
    return _with_outputs(_MEDIA_FIELDS, outputs)


def text_rows(fields: Sequence[tuple[str, Any]], outputs: Sequence[str]) -> RowTypeConstraint:
    """Return the type of rows with vectors of texts: the fields of the input, then the outputs.

    Raises:
        SpecError: if an output cannot be a column.
    """
    return _with_outputs(fields, outputs)


def _with_outputs(fields: Sequence[tuple[str, Any]], outputs: Sequence[str]) -> RowTypeConstraint:
    taken = {name for name, _ in fields}
    for output in outputs:
        if output in taken:
            raise SpecError(f"The rows have a field {output!r} already, so the output {output!r} cannot be a column.")
        if not output.isidentifier() or output.startswith("_"):
            raise SpecError(
                f"The output {output!r} cannot be a column of a Beam schema, which takes letters, digits and "
                "underscores; name other outputs with `outputs`."
            )
    return RowTypeConstraint.from_fields([*fields, *((output, Sequence[np.float32]) for output in outputs)])

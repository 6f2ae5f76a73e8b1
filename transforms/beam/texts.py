"""Texts to vectors: strings, or rows with a column of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.typehints.row_type import RowTypeConstraint

from cliploom.schemas.errors import EncodeError
from cliploom.schemas.media import Sampled
from cliploom.transforms.beam.batches import Batch, BatchRows, EncodeFn, Gather, Origin, item_errors
from cliploom.transforms.beam.model import ModelRef
from cliploom.transforms.beam.rows import FAILURES, ROWS, Failure, text_rows
from cliploom.transforms.beam.values import fields_of, vector_columns
from cliploom.transforms.store.parts import FeatureRow
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.models import BATCH_SENTENCES, SentenceEncoder

_LONGEST_NAME = 80


class EncodeColumn(beam.PTransform[beam.PCollection[Any], beam.PCollection[Any]]):  # type: ignore[misc]
    """Strings or rows in; the same with vectors, and ``Failure``, out.

    Args:
        model: prepared encoder.
        column: of the texts.
        uid: column that names a text in failures; None for the text itself.
    """

    def __init__(self, model: ModelRef, column: str, uid: str | None) -> None:
        super().__init__()
        self._model, self._column, self._uid = model, column, uid

    def expand(self, pcoll: beam.PCollection[Any]) -> beam.pvalue.DoOutputsTuple:
        """Encode the texts of a bundle in batches.

        Raises:
            TypeError: if the elements are neither strings nor rows with the columns.
        """
        fields = text_fields(pcoll.element_type, self._column, self._uid)
        step = beam.ParDo(_EncodeTextsFn(self._model, self._column, self._uid))
        rows = text_rows(fields, list(self._model.job.outputs))
        step = self._model.hinted(step.with_output_types(rows, **{FAILURES: Failure}))
        gather = Gather(BATCH_SENTENCES, partial(text_values, self._column))
        return pcoll | gather | "Encode" >> step.with_outputs(FAILURES, main=ROWS)


def text_fields(element_type: Any, column: str, uid: str | None) -> Sequence[tuple[str, Any]]:
    """Return the fields of rows with texts; strings are rows with this one column.

    Raises:
        TypeError: if the elements are neither strings nor rows with the columns.
    """
    if element_type is str:
        if uid is not None:
            raise TypeError(f"EncodeTexts: the elements are strings, so there is no column {uid!r}; leave uid out.")
        return [(column, str)]
    row = (
        element_type if isinstance(element_type, RowTypeConstraint) else RowTypeConstraint.from_user_type(element_type)
    )
    if row is None:
        raise TypeError(
            f"EncodeTexts takes strings, or rows with a field {column!r}, not {element_type}; declare the type of the "
            "step before it, such as .with_output_types(str), or make rows with beam.Select or beam.Row."
        )
    fields: list[tuple[str, Any]] = list(row._fields)
    known = dict(fields)
    for name in [column, *([] if uid is None else [uid])]:
        if name not in known:
            raise TypeError(f"EncodeTexts: the rows have no field {name!r}, only {', '.join(known)}.")
    return fields


class _EncodeTextsFn(EncodeFn):
    def __init__(self, model: ModelRef, column: str, uid: str | None) -> None:
        super().__init__(model, text_row)
        self._column, self._uid = column, uid

    def process(self, batch: Batch) -> Iterator[Any]:
        """Encode the texts of a batch."""
        yield from super().process(batch)
        if isinstance(self._encoder, SentenceEncoder):
            report = self._encoder.report
            count("texts_encoded", report.done)
            count("texts_truncated", report.truncated)
            report.done = report.truncated = 0

    def read(self, rows: BatchRows, origin: Origin) -> Iterator[Any]:
        """Take one text."""
        fields: dict[str, Any] = origin.value
        text = fields[self._column]
        uid = str(text if self._uid is None else fields[self._uid])[:_LONGEST_NAME]
        item = rows.begin(origin, "", uid)
        item.planned = 1
        with item_errors(item):
            if not isinstance(text, str):
                raise EncodeError("encode", f"the field {self._column!r} holds {text!r:.80}, which is not a text")
            yield from rows.add(item, Sampled(0, 0, None, None, 0, text))
        rows.end(item)


def text_values(column: str, element: Any) -> dict[str, Any]:
    """Return the fields of an element; a string is a row with this one column."""
    return {column: element} if isinstance(element, str) else fields_of(element)


def text_row(fields: dict[str, Any], row: FeatureRow) -> beam.Row:
    """Return the emitted row of a text."""
    return beam.Row(**fields, **vector_columns(row.vectors))

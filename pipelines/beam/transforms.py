"""The public transforms of ``cliploom.beam``: ``DecodeFrames``, ``EncodeFrames``, ``EncodeMedia``, ``EncodeTexts``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.io.fileio import ReadableFile
from apache_beam.io.filesystem import FileMetadata
from apache_beam.typehints.row_type import RowTypeConstraint

from cliploom.pipelines.beam.arguments import (
    Encoder,
    frames_job,
    frames_spec,
    media_spec,
    model_ref,
    place_of,
    prepared_job,
    preprocess_of,
    reading_of,
    text_spec,
)
from cliploom.schemas.errors import SpecError
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.spec import Spec
from cliploom.transforms.beam.files import wanted_elements
from cliploom.transforms.beam.media import DecodeFiles, EncodeFiles, EncodePictures
from cliploom.transforms.beam.model import ModelRef
from cliploom.transforms.beam.rows import FAILURES, ROWS, Frame
from cliploom.transforms.beam.texts import EncodeColumn, text_fields


class Results(NamedTuple):
    """The two outputs of a transform: ``good, bad = pcoll | EncodeMedia(...)``.

    Attributes:
        rows: frames, or rows with vectors.
        failures: ``Failure`` rows.
    """

    rows: beam.PCollection[Any]
    failures: beam.PCollection[Any]


class _Step(beam.PTransform[beam.PCollection[Any], beam.PCollection[Any]]):  # type: ignore[misc]
    """Base of the public transforms: what Beam YAML gives as ``error_handling``, and the two outputs."""

    def __init__(self, error_handling: Mapping[str, Any] | None) -> None:
        super().__init__()
        given = dict(error_handling or {})
        if given and (set(given) != {"output"} or not isinstance(given["output"], str)):
            raise SpecError(f"error_handling: {given} should be {{'output': NAME}}.")
        self._failures_output: str | None = given.get("output")

    def _results(self, made: beam.pvalue.DoOutputsTuple) -> Results | dict[str, beam.PCollection[Any]]:
        found = Results(made[ROWS], made[FAILURES])
        if self._failures_output is None:
            return found
        return {ROWS: found.rows, self._failures_output: found.failures}


class _Encoding(_Step):
    """Base of the transforms that encode: they keep a checked spec, and prepare its model when they are applied."""

    def __init__(
        self, spec: Spec, models: str | None, threads: int | None, error_handling: Mapping[str, Any] | None
    ) -> None:
        super().__init__(error_handling)
        self._spec, self._place, self._threads = spec, place_of(models), threads

    def _model(self, job: FeatureJob, pcoll: beam.PCollection[Any]) -> ModelRef:
        return model_ref(job, self._place, pcoll.pipeline, self._threads)


class DecodeFrames(_Step):
    """Decode media files to frames: ``frames, failures = files | DecodeFrames(sample, preprocess)``.

    Takes paths (``str``), elements of ``fileio.MatchFiles`` or ``fileio.ReadMatches``, or rows with a field ``uri``
    or ``path``, and perhaps ``uid``. Gives ``Frame`` rows; ``pixels_of`` returns their pixels as an array. A step that
    follows directly gets them in the same process; a shuffle (``Reshuffle``, ``GroupByKey``) sends all pixels over the
    network.
    """

    def __init__(
        self,
        sample: str | Mapping[str, Any],
        preprocess: Mapping[str, Any],
        *,
        source: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        error_handling: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the arguments; nothing is opened.

        Args:
            sample: which frames, as in a spec, such as ``{"every": "1s"}``.
            preprocess: size and fit of the pictures, such as ``{"width": 224, "height": 224, "fit": "crop"}``; further
                keys: ``crop``, ``filter``, ``order``, ``alpha``.
            source: settings of a media source: ``stereo``, ``deinterlace``, ``tone_map``, ``http``.
            limits: files beyond them are failures: ``max_bytes``, ``max_pixels``, ``max_duration``, ``max_frames``.
            error_handling: as in Beam YAML, ``{"output": NAME}``; the result is then a dict.

        Raises:
            SpecError: with each argument that is wrong.
        """
        super().__init__(error_handling)
        # Samplings are checked as part of a spec, which has an encoder; this one takes single pictures and windows.
        spec = media_spec(sample, "efficientnet_lite0", None, source, limits)
        self._reading = reading_of(spec, preprocess_of(preprocess))
        repeats = self._reading.request.sampling.repeats
        if repeats is not None and repeats.vectors is not None:
            raise SpecError("sample.distinct: frames have no vectors; compare pictures, such as {pictures: 0.95}.")

    def expand(self, pcoll: beam.PCollection[Any]) -> Results | dict[str, beam.PCollection[Any]]:
        """Add the steps.

        Raises:
            TypeError: if the elements name no files.
        """
        check_names_files(self, pcoll.element_type)
        return self._results(pcoll | "Decode" >> DecodeFiles(self._reading))


class EncodeMedia(_Encoding):
    """Decode files and encode their frames in one step: ``rows, failures = files | EncodeMedia(sample, encoder)``.

    Takes what ``DecodeFrames`` takes. Gives rows with the fields ``uri``, ``uid``, ``ordinal``, ``start_s``, ``end_s``,
    ``frame``, and a list of float32 for each output of the encoder. No pixels leave the step. The values are those
    that ``cliploom run`` computes.
    """

    def __init__(
        self,
        sample: str | Mapping[str, Any],
        encoder: Encoder,
        *,
        outputs: Sequence[str] | None = None,
        models: str | None = None,
        threads: int | None = None,
        source: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        error_handling: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the arguments; the model is prepared when the transform is applied.

        Args:
            sample: which frames or windows, as in a spec, such as ``{"every": "1s"}``.
            encoder: its kind, or a mapping as in a spec; ``text_encoder`` is an encoder, too.
            outputs: of the encoder to keep; all by default.
            models: folder, ``s3://...`` or ``gs://...`` for the prepared model, which all workers read; a store, too.
                By default a folder of this machine, which suits local runners.
            threads: of a worker process that use the model at the same time; by default those of Beam's local runner,
                else 1.
            source: settings of a media source: ``stereo``, ``deinterlace``, ``tone_map``, ``http``.
            limits: files beyond them are failures: ``max_bytes``, ``max_pixels``, ``max_duration``, ``max_frames``.
            error_handling: as in Beam YAML, ``{"output": NAME}``; the result is then a dict.

        Raises:
            SpecError: with each argument that is wrong.
        """
        super().__init__(media_spec(sample, encoder, outputs, source, limits), models, threads, error_handling)

    def expand(self, pcoll: beam.PCollection[Any]) -> Results | dict[str, beam.PCollection[Any]]:
        """Prepare the model and add the steps.

        Raises:
            TypeError: if the elements name no files.
            CliploomError: if the model cannot be prepared.
        """
        check_names_files(self, pcoll.element_type)
        job = prepared_job(self._spec, self._place)
        assert job.card is not None  # noqa: S101 - features of media have an encoder
        assert job.card.preprocess is not None  # noqa: S101 - of pictures
        reading = reading_of(self._spec, job.card.preprocess)
        return self._results(pcoll | "Encode" >> EncodeFiles(reading, self._model(job, pcoll)))


class EncodeFrames(_Encoding):
    """Encode frames that ``DecodeFrames`` gives: ``rows, failures = frames | EncodeFrames(encoder)``.

    Gives rows as ``EncodeMedia`` does. The frames must have the size that the encoder takes. ``EncodeMedia`` costs
    less, since pixels stay where they were decoded; use two steps to look at frames, or to filter them.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        outputs: Sequence[str] | None = None,
        models: str | None = None,
        threads: int | None = None,
        error_handling: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the arguments; the model is prepared when the transform is applied.

        Args:
            encoder: see ``EncodeMedia``.
            outputs: see ``EncodeMedia``.
            models: see ``EncodeMedia``.
            threads: see ``EncodeMedia``.
            error_handling: as in Beam YAML, ``{"output": NAME}``; the result is then a dict.

        Raises:
            SpecError: with each argument that is wrong.
        """
        super().__init__(frames_spec(encoder, outputs), models, threads, error_handling)

    def expand(self, pcoll: beam.PCollection[Any]) -> Results | dict[str, beam.PCollection[Any]]:
        """Prepare the model and add the steps.

        Raises:
            TypeError: if the elements are not frames.
            CliploomError: if the model cannot be prepared.
        """
        check_fields(self, pcoll.element_type, Frame._fields, "frames, such as those of DecodeFrames")
        job = frames_job(self._spec, self._place)
        return self._results(pcoll | "Encode" >> EncodePictures(self._model(job, pcoll)))


class EncodeTexts(_Encoding):
    """Encode texts: ``rows, failures = texts | EncodeTexts(encoder)``.

    Takes strings, or rows with a field ``column``. Gives rows with the same fields and a list of float32 for each
    output of the encoder. Equal texts near each other are encoded once.
    """

    def __init__(
        self,
        encoder: Encoder = "minilm",
        *,
        column: str = "text",
        uid: str | None = None,
        outputs: Sequence[str] | None = None,
        models: str | None = None,
        threads: int | None = None,
        error_handling: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the arguments; the model is prepared when the transform is applied.

        Args:
            encoder: of texts; its kind, or a mapping as in a spec.
            column: field of the texts; also its name in the rows that strings become.
            uid: field that names a text in failures; by default the start of the text does.
            outputs: see ``EncodeMedia``.
            models: see ``EncodeMedia``.
            threads: see ``EncodeMedia``.
            error_handling: as in Beam YAML, ``{"output": NAME}``; the result is then a dict.

        Raises:
            SpecError: with each argument that is wrong.
        """
        super().__init__(text_spec(encoder, outputs), models, threads, error_handling)
        self._column, self._uid = column, uid

    def expand(self, pcoll: beam.PCollection[Any]) -> Results | dict[str, beam.PCollection[Any]]:
        """Prepare the model and add the steps.

        Raises:
            TypeError: if the elements are neither strings nor rows with the field.
            CliploomError: if the model cannot be prepared.
        """
        text_fields(pcoll.element_type, self._column, self._uid)
        job = prepared_job(self._spec, self._place)
        return self._results(pcoll | "Encode" >> EncodeColumn(self._model(job, pcoll), self._column, self._uid))


def check_names_files(step: beam.PTransform, element_type: Any) -> None:
    """Refuse elements that name no files while the pipeline is built; of an unknown type each element is looked at.

    Raises:
        TypeError: naming the type.
    """
    if element_type in (str, FileMetadata, ReadableFile, beam.typehints.Any, Any):
        return
    row = RowTypeConstraint.from_user_type(element_type) if isinstance(element_type, type) else element_type
    if isinstance(row, RowTypeConstraint) and {"uri", "path"} & set(dict(row._fields)):
        return
    raise TypeError(f"{type(step).__name__}: {wanted_elements()}, not {element_type}.")


def check_fields(step: beam.PTransform, element_type: Any, fields: Sequence[str], what: str) -> None:
    """Refuse elements without some fields while the pipeline is built.

    Raises:
        TypeError: naming the type.
    """
    row = RowTypeConstraint.from_user_type(element_type) if isinstance(element_type, type) else element_type
    if not isinstance(row, RowTypeConstraint) or not set(fields) <= set(dict(row._fields)):
        raise TypeError(f"{type(step).__name__} takes {what}, not {element_type}.")

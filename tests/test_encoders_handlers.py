"""Prepared encoders under Beam's own RunInference."""

from __future__ import annotations

import pickle
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.util import assert_that

from cliploom.schemas.errors import EncodeError
from cliploom.transforms.encoders.base import EncodeReport
from cliploom.transforms.encoders.handlers import EncoderHandler
from cliploom.transforms.encoders.prepare import prepare_model
from cliploom.transforms.encoders.registry import family


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_model("minilm", family("minilm").Options(), tmp_path_factory.mktemp("models"))[0]


def test_run_inference_gives_a_row_an_item(folder: Path) -> None:
    def two_rows_of_384(rows: list) -> None:
        assert sorted(row["embedding"].shape for row in rows) == [(384,), (384,)]

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows = pipeline | beam.Create(["a cat", "a dog"]) | RunInference(EncoderHandler(folder))
        assert_that(rows, two_rows_of_384)


def test_a_handler_travels_to_workers_before_it_is_loaded(folder: Path) -> None:
    handler = pickle.loads(pickle.dumps(EncoderHandler(folder, threads=2, max_batch_size=8)))
    assert handler.batch_elements_kwargs() == {"max_batch_size": 8}
    assert handler.load_model() is handler.load_model()


def test_errors_are_in_the_place_of_rows_and_reports_are_filled(folder: Path) -> None:
    handler = EncoderHandler(folder)
    report = EncodeReport()
    rows = list(handler.run_inference(["fine", 7], handler.load_model(), {"report": report}))
    assert isinstance(rows[1], EncodeError)
    assert report == EncodeReport(done=1, failed=1)


def test_bytes_of_a_batch_are_counted_without_pickling(folder: Path) -> None:
    handler = EncoderHandler(folder)
    assert handler.get_num_bytes(["four", np.zeros((2, 2, 3), np.uint8)]) == 4 + 12
    assert handler.get_metrics_namespace() == "cliploom_encoder"

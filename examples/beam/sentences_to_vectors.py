"""Sentences of JSON lines, {"id": ..., "sentence": ...}, to vectors in Parquet, on any Beam runner.

python examples/beam/sentences_to_vectors.py --input sentences.jsonl --output vectors/sentences [BEAM OPTIONS]
"""

import argparse
import json
import sys
from typing import NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from cliploom.beam import EncodeTexts


class Sentence(NamedTuple):
    """A line of the input; Beam takes the columns from here."""

    id: str
    sentence: str


beam.coders.registry.register_coder(Sentence, beam.coders.RowCoder)


def parse(line: str) -> Sentence:
    """Return a line as a row."""
    found = json.loads(line)
    return Sentence(str(found["id"]), found["sentence"])


def main(arguments: list[str]) -> None:
    """Build the pipeline and run it to its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="pattern of files of JSON lines")
    parser.add_argument("--output", required=True, help="start of the names of the Parquet files")
    parser.add_argument("--models", help="folder or bucket that all workers read; needed on a cluster")
    chosen, others = parser.parse_known_args(arguments)
    with beam.Pipeline(options=PipelineOptions(others)) as pipeline:
        sentences = pipeline | beam.io.ReadFromText(chosen.input) | beam.Map(parse).with_output_types(Sentence)
        rows, failures = sentences | EncodeTexts("minilm", column="sentence", uid="id", models=chosen.models)
        _ = rows | beam.io.WriteToParquet(chosen.output, file_name_suffix=".parquet")
        _ = failures | beam.LogElements(level=30)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Media files to Parquet with a vector for each second, and failures to JSON, on any Beam runner.

python examples/beam/files_to_parquet.py --files "media/*" --output vectors [BEAM OPTIONS]
"""

import argparse
import json
import sys

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.options.pipeline_options import PipelineOptions

from cliploom.beam import EncodeMedia, Failure


def as_json(failure: Failure) -> str:
    """Return a failure as a line of JSON."""
    return json.dumps(failure._asdict())


def main(arguments: list[str]) -> None:
    """Build the pipeline and run it to its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", required=True, help="pattern of the media files")
    parser.add_argument("--output", required=True, help="folder, or gs://bucket/prefix")
    parser.add_argument("--every", default="1s")
    parser.add_argument("--models", help="folder or bucket that all workers read; needed on a cluster")
    chosen, others = parser.parse_known_args(arguments)
    encoder = {"kind": "efficientnet_lite0", "text_encoder": "minilm"}
    with beam.Pipeline(options=PipelineOptions(others)) as pipeline:
        files = pipeline | fileio.MatchFiles(chosen.files)
        rows, failures = files | EncodeMedia(
            {"every": chosen.every}, encoder, outputs=["semantic"], models=chosen.models
        )
        _ = rows | beam.io.WriteToParquet(f"{chosen.output}/frames", file_name_suffix=".parquet")
        lines = failures | beam.Map(as_json)
        _ = lines | beam.io.WriteToText(f"{chosen.output}/failures", file_name_suffix=".jsonl")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Types of the elements of cliploom's own Beam graphs, and that Beam compares them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.typehints.decorators import TypeCheckError
from graph_types import Untyped

import cliploom.transforms
from cliploom.beam import DecodeFrames, EncodeFrames, EncodeMedia, EncodeTexts
from cliploom.pipelines.running.build import build_probe, build_run
from cliploom.schemas.jobs import RunJob
from cliploom.schemas.media import MediaLimits
from cliploom.schemas.records import Rewrite, Shard
from cliploom.transforms.heads.scoring import Scoring, build_scoring
from cliploom.transforms.publish.final import Assemble, CommitTables
from cliploom.transforms.wire import Spread, Step, encode_element, encoded
from cliploom.transforms.work.plan_ref import PlanRef
from cliploom.transforms.work.shards import ComputeShard, RewriteParts

JOB = RunJob("store", "run", {}, MediaLimits())
PLAN = PlanRef("store", "plans/run", "digest")


def users(pipeline: beam.Pipeline) -> None:
    """The pipeline of a Beam user."""
    lite0, size = "efficientnet_lite0", {"width": 224, "height": 224}
    files = pipeline | beam.Create(["a.mp4"])
    _ = files | EncodeMedia({"every": "1s"}, lite0)
    frames, _ = files | DecodeFrames({"every": "1s"}, size)
    _ = frames | EncodeFrames(lite0)
    _ = pipeline | "Texts" >> beam.Create(["a cat"]) | EncodeTexts("minilm")


@pytest.mark.parametrize(
    ("build", "least"),
    [
        (lambda pipeline: build_probe(pipeline, JOB, "listing.parquet"), 3),
        (lambda pipeline: build_run(pipeline, PLAN, JOB), 30),
        (lambda pipeline: build_scoring(pipeline, Scoring("store", 1, "head", (), "clips", 0.0, 0, 3, "figures")), 8),
        (users, 14),
    ],
    ids=["probe", "run", "scoring", "users"],
)
def test_no_transform_of_cliploom_has_any_in_or_out(build: Callable[[beam.Pipeline], None], least: int) -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    build(pipeline)
    visitor = Untyped()
    pipeline.visit(visitor)
    assert visitor.found == []
    assert visitor.seen >= least


def test_a_step_on_the_elements_of_another_fails_while_the_graph_is_built() -> None:
    begin = beam.Pipeline(runner="FnApiRunner") | beam.Create([encode_element("a path")])
    shards = begin | "Shards" >> beam.Map(lambda path: path).with_output_types(encoded(Shard))
    with pytest.raises(TypeCheckError, match=r"requires .*Encoded\[Rewrite\].* applied to .*Encoded\[Shard\]"):
        _ = shards | RewriteParts(JOB)
    with pytest.raises(TypeCheckError, match=r"requires .*Encoded\[Shard\].* applied to .*bytes"):
        _ = begin | ComputeShard(JOB)
    path = begin | "Path" >> beam.Map(lambda path: path).with_output_types(encoded(str))
    with pytest.raises(TypeError, match=r"Assemble takes a side input of Encoded\[str\], not of .*Encoded\[Shard\]"):
        Assemble(PLAN, beam.pvalue.AsList(shards))
    with pytest.raises(TypeError, match="CommitTables takes 2 side inputs, not 1"):
        CommitTables(PLAN, beam.pvalue.AsList(path))


def test_spread_values_keep_their_type() -> None:
    numbers = beam.Pipeline(runner="FnApiRunner") | beam.Create([1, 2]) | Spread()
    assert numbers.element_type is int


def test_encoded_types_travel_as_bytes() -> None:
    for kind in (Shard, Rewrite, tuple[str, int]):
        assert encoded(kind) is encoded(kind)
        assert beam.coders.registry.get_coder(encoded(kind)) == beam.coders.BytesCoder()


# Their modules import torch or TensorFlow, or end the process that imports them.
APART = ("torch", "tensorflow", "transform_fit", "analysis", "training", "devise", "two_tower", "saved_model", "clip")


def modules() -> Iterator[Any]:
    root = Path(cliploom.transforms.__file__).parent
    for module in pkgutil.walk_packages([str(root)], "cliploom.transforms."):
        text = Path(root, *module.name.split(".")[2:]).with_suffix(".py")
        if text.is_file() and "beam.DoFn" in text.read_text(encoding="utf-8") and not module.name.endswith(APART):
            yield importlib.import_module(module.name)


def test_do_fns_are_private_and_end_with_fn() -> None:
    bases = {"EncodedDoFn", "PlanDoFn", "EncodeFn"}
    found = {
        name
        for module in modules()
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, beam.DoFn) and kind.__module__ == module.__name__
    }
    assert len(found) >= 5
    assert {name for name in found - bases if not (name.startswith("_") and name.endswith("Fn"))} == set()
    assert all(issubclass(kind.do_fn, beam.DoFn) for kind in Step.__subclasses__())

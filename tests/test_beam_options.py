"""Beam options with cached views, and the tests' cached Beam inspections, behave like Beam's own."""

from __future__ import annotations

import copy
import pickle

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DebugOptions, DirectOptions, PipelineOptions, StandardOptions
from apache_beam.transforms import userstate
from quick_beam import keep_inspections

from cliploom.pipelines.launching.beam_options import GraphOptions

FLAGS = ["--direct_num_workers=3", "--runner=FnApiRunner", "--experiments=one", "--unknown_to_beam=1"]


def test_a_view_is_made_once_and_says_what_beams_says() -> None:
    ours, beams = GraphOptions(FLAGS), PipelineOptions(FLAGS)
    assert ours.view_as(DirectOptions) is ours.view_as(DirectOptions)
    assert ours.view_as(DirectOptions).direct_num_workers == 3
    for kind in PipelineOptions.__subclasses__():
        assert str(ours.view_as(kind)) == str(beams.view_as(kind))
    assert ours.get_all_options(drop_default=True) == beams.get_all_options(drop_default=True)


def test_what_one_view_sets_all_see() -> None:
    options = GraphOptions(FLAGS)
    options.view_as(DebugOptions).experiments.append("two")
    options.view_as(StandardOptions).runner = "DirectRunner"
    assert options.view_as(DebugOptions).experiments == ["one", "two"]
    assert options.get_all_options()["runner"] == "DirectRunner"
    assert options.view_as(DirectOptions).view_as(StandardOptions).runner == "DirectRunner"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda options: pickle.loads(pickle.dumps(options))])
def test_a_copy_has_values_of_its_own(copied) -> None:  # type: ignore[no-untyped-def]
    options = GraphOptions(FLAGS)
    options.view_as(StandardOptions).runner = "first"
    other = copied(options)
    other.view_as(StandardOptions).runner = "second"
    assert options.view_as(StandardOptions).runner == "first"
    assert other.view_as(DirectOptions).direct_num_workers == 3
    assert isinstance(other, GraphOptions)


class Stateful(beam.DoFn):  # type: ignore[misc]
    COUNT = userstate.CombiningValueStateSpec("count", sum)

    def process(self, element, count=beam.DoFn.StateParam(COUNT)):  # type: ignore[no-untyped-def]  # noqa: B008
        yield element


class Plain(beam.DoFn):  # type: ignore[misc]
    def process(self, element):  # type: ignore[no-untyped-def]
        yield element


def test_state_is_found_though_inspections_are_kept() -> None:
    keep_inspections()
    for _ in range(2):
        assert userstate.is_stateful_dofn(Stateful())
        assert not userstate.is_stateful_dofn(Plain())
        wrapped = [beam.core.CallableWrapperDoFn(each) for each in (lambda element: [], Stateful().process)]
        assert [userstate.is_stateful_dofn(each) for each in wrapped] == [False, True]

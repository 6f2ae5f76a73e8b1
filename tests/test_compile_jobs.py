"""Config digests change exactly when the settings that affect values change."""

from __future__ import annotations

from pathlib import Path

import pytest
from stores import SmallStore

from cliploom.pipelines.planning.compile_jobs import CompiledSpec, compile_jobs, describe_change
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec_file import parse_document
from cliploom.schemas.spec_yaml import read_document
from cliploom.transforms.store.object_store import ObjectStore

SPEC = """\
version: 1
name: demo
store: ./store
sources:
  clips: {kind: media, glob: "media/*.mp4"}
encoders:
  minilm: {kind: minilm}
  lite0: {kind: efficientnet_lite0, text_encoder: minilm}
features:
  frames: {source: clips, sample: {every: 1s}, encoder: lite0, outputs: [pooled, semantic]}
indexes:
  frames: {feature: frames}
"""


@pytest.fixture
def compiled(built_store: SmallStore) -> ObjectStore:
    """A store in which the models are prepared already."""
    return ObjectStore(built_store.store)


def of(objects: ObjectStore, *overrides: str) -> CompiledSpec:
    return compile_jobs(parse_document(read_document(SPEC, overrides), {}), objects)


@pytest.mark.parametrize(
    "override",
    [
        "features.frames.sample.every=2s",
        "features.frames.sample.max_frames=5",
        "features.frames.sample.distinct=0.95",
        "features.frames.sample.distinct={pictures: 0.95}",
        "features.frames.outputs=[pooled]",
        "sources.clips.stereo=left",
    ],
)
def test_what_changes_values_changes_the_table(compiled: ObjectStore, override: str) -> None:
    one, other = of(compiled).jobs["frames"], of(compiled, override, "indexes={}").jobs["frames"]
    assert one.config != other.config
    assert one.table != other.table


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "store=./elsewhere",
        "sources.clips.glob=other/*.mp4",
        "sources.clips.uid=stem",
        "features.frames.sample.every=1000ms",
        "features.frames.outputs=[semantic, pooled]",
        "features.frames.sample.distinct=null",
        "indexes.frames.kind=hnsw",
        "targets.local.workers=1",
        "limits.segment=60s",
    ],
)
def test_what_changes_no_value_keeps_the_table(compiled: ObjectStore, override: str) -> None:
    assert of(compiled, override).jobs["frames"].config == of(compiled).jobs["frames"].config


def test_index_without_an_output_is_over_the_searchable_one(compiled: ObjectStore) -> None:
    assert of(compiled).indexes["frames"].output == "semantic"
    assert of(compiled, "features.frames.outputs=[pooled]").indexes["frames"].output == "pooled"


def test_spec_without_features_has_nothing_to_compute(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="features is empty: nothing to compute; add one"):
        of(ObjectStore(tmp_path), "features={}", "indexes={}")


def test_changes_are_described_by_what_a_person_wrote(compiled: ObjectStore) -> None:
    old = of(compiled).recipes["frames"]
    new = of(compiled, "features.frames.sample.every=2s").recipes["frames"]
    assert describe_change(old, new) == "sample every 1s -> every 2s"
    distinct = of(compiled, "features.frames.sample.distinct=0.95").recipes["frames"]
    assert "sample every 1s -> every 1s distinct vectors 0.95" in describe_change(old, distinct)
    assert describe_change(old, old) == ""
    assert "weights or revision changed" in describe_change(old, old | {"model": "other"})

"""Heads in a spec: valid declarations, and messages about invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliploom.pipelines.cli.scaffold import mermaid
from cliploom.pipelines.planning.check import check_encoders
from cliploom.schemas.errors import SpecError
from cliploom.schemas.heads import HeadSpec
from cliploom.schemas.spec_file import load_spec

SPEC = """\
version: 1
name: labels
store: ./store
sources:
  clips: {kind: media, glob: "media/*/*.mp4", labels: folder}
  more: {kind: media, glob: "more/*.mp4"}
  yt: {kind: tfrecord, format: yt8m_frame, glob: "yt/*.tfrecord"}
encoders:
  lite0: {kind: efficientnet_lite0}
  tagger: {kind: head, head: labels}
features:
  frames: {source: clips, sample: {every: 1s}, encoder: lite0, outputs: [pooled]}
  others: {source: more, sample: {every: 1s}, encoder: lite0, outputs: [pooled]}
  yt: {source: yt}
  tags: {source: clips, encoder: tagger}
heads:
  labels: {inputs: [{feature: frames, output: pooled}]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return tmp_path / "spec.yaml"


def test_a_spec_with_a_head_is_valid(path: Path) -> None:
    spec = load_spec(path)
    check_encoders(spec)
    assert list(spec.tags) == ["tags"]
    assert list(spec.computed) == ["frames", "others", "yt"]
    assert spec.heads["labels"].held_out == 0.2


def test_a_head_may_tag_a_source_of_records(path: Path) -> None:
    spec = load_spec(
        path,
        [
            "heads.labels.inputs=[{feature: yt, output: rgb}, {feature: yt, output: audio}]",
            "features.tags.source=yt",
        ],
    )
    check_encoders(spec)


def test_a_validation_source_leaves_no_holdout(path: Path) -> None:
    assert load_spec(path, ["heads.labels.validation=[{feature: others}]"]).heads["labels"].held_out == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["heads.labels.inputs=[]"], "heads.labels.inputs: .* is empty"),
        (
            ["heads.labels.inputs=[{feature: frame}]"],
            "heads.labels.inputs.0.feature: 'frame' is not there; did you mean",
        ),
        (["heads.labels.inputs=[{feature: tags}]"], "'tags' has no vectors, it holds labels"),
        (
            ["heads.labels.inputs=[{feature: yt}]", "features.tags.source=yt"],
            "heads.labels.inputs.0.output is missing; .* has rgb, audio",
        ),
        (["heads.labels.inputs=[{feature: frames, output: probs}]"], "feature 'frames' has no output 'probs'"),
        (
            ["heads.labels.inputs=[{feature: frames}, {feature: yt, output: rgb}]"],
            "a head's inputs belong to one source",
        ),
        (["heads.labels.loss=hinge"], "heads.labels.loss: unknown 'hinge'"),
        (["heads.labels.l2=-1"], "must be 0.0 or more"),
        (["heads.labels.holdout=100%"], "training and validation need some videos each"),
        (["heads.labels.holdout=10%", "heads.labels.validation=[{feature: others}]"], "not both"),
        (["heads.labels.validation=[{feature: yt, output: rgb}, {feature: yt, output: audio}]"], "names 2 inputs"),
        (["encoders.tagger.head=label"], "encoders.tagger.head: there is no head 'label'; did you mean 'labels'"),
        (["encoders.tagger.tops=3"], "encoders.tagger.tops: unknown key; did you mean 'top'"),
        (["encoders.tagger.segments=5"], "not a duration with a unit"),
        (["encoders.tagger.text_encoder=lite0"], "unknown key"),
        (["encoders.tagger.inputs=[{feature: yt, output: rgb}, {feature: yt, output: audio}]"], "2 inputs, but head"),
        (["encoders.lite0.text_encoder=tagger"], "'tagger' is a head and encodes no text"),
        (["features.tags.source=more"], "reads features of source 'clips', not of 'more'"),
        (["features.tags.sample={every: 1s}"], "remove 'sample'"),
        (["indexes.near={feature: tags}"], "indexes.near.feature: feature 'tags' holds labels, not vectors"),
        (["exports.h5={kind: hdf5, feature: tags}"], "exports.h5.feature: feature 'tags' holds labels, not vectors"),
    ],
)
def test_wrong_heads_are_reported_with_the_fix(path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_encoders(load_spec(path, overrides))


def test_the_graph_shows_what_a_head_reads_and_who_applies_it(path: Path) -> None:
    lines = mermaid(load_spec(path)).splitlines()
    assert {"  feature_frames --> head_labels", "  head_labels --> encoder_tagger"} <= set(lines)


def test_settings_survive_being_written_down() -> None:
    spec = HeadSpec.model_validate({"inputs": [{"feature": "frames"}], "holdout": "30%", "l2": 1, "weight_scale": 2})
    assert HeadSpec.model_validate(spec.model_dump(mode="json")) == spec

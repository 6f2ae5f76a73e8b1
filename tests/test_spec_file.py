"""Reading a spec: overrides, variables of the environment, anchors; and being kept in a store and read again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.schemas.errors import SpecError, nearest, short
from cliploom.schemas.spec import Spec
from cliploom.schemas.spec_file import load_document, load_spec, parse_document
from cliploom.schemas.spec_yaml import read_document

SPEC = """\
version: 1
name: demo
store: ${STORE:-./store}
sources:
  clips: {kind: media, glob: "media/*.mp4"}
encoders:
  minilm: {kind: minilm}
  lite0: {kind: efficientnet_lite0, text_encoder: minilm}
features:
  frames: {source: clips, sample: {every: 1s}, encoder: lite0, outputs: [pooled, semantic]}
targets:
  local: {workers: "${WORKERS:-2}"}
  flink: {runner: FlinkRunner, flink_master: "localhost:8081", parallelism: 4}
"""


def spec_of(text: str, *overrides: str, **environment: str) -> Spec:
    return parse_document(read_document(text, overrides), environment)


def test_defaults_are_those_of_the_documentation() -> None:
    spec = spec_of(SPEC)
    assert spec.store == "./store"
    assert (spec.limits.max_failed, spec.limits.max_deleted, spec.limits.max_recompute) == (0.1, 0.1, 1.0)
    assert spec.encoders["lite0"].options == {}
    assert spec.targets["flink"].options == {"flink_master": "localhost:8081", "parallelism": 4}
    assert next(iter(spec.targets)) == "local"


def test_overrides_win_in_their_order() -> None:
    spec = spec_of(
        SPEC, "features.frames.sample.every=2s", "limits.max_failed=5%", "limits.max_failed=6%", "name=other"
    )
    assert spec.features["frames"].sample == spec_of(SPEC.replace("1s", "2s")).features["frames"].sample
    assert spec.limits.max_failed == 0.06
    assert spec.name == "other"


def test_override_may_add_a_node() -> None:
    spec = spec_of(SPEC, "indexes.frames.feature=frames", "targets.small={workers: 1}", "sources.clips.uid=stem")
    assert spec.indexes["frames"].feature == "frames"
    assert spec.targets["small"].workers == 1
    assert spec.sources["clips"].uid == "stem"  # type: ignore[union-attr]


def test_variables_come_from_the_environment() -> None:
    assert spec_of(SPEC, STORE="/data").store == "/data"
    assert spec_of(SPEC.replace("./store}", "./store}/${DAY:-monday}"), STORE="/data").store == "/data/monday"
    assert spec_of(SPEC.replace("${STORE:-./store}", '"${STORE:-}x"')).store == "x"


@pytest.mark.parametrize(("text", "workers"), [("7", 7), ("12", 12)])
def test_value_that_is_one_variable_may_be_a_number(text: str, workers: int) -> None:
    assert spec_of(SPEC, WORKERS=text).targets["local"].workers == workers


def test_value_that_is_one_variable_may_be_true_or_false() -> None:
    text = SPEC + "exports: {h5: {kind: hdf5, feature: frames, single: '${SINGLE:-true}'}}\n"
    assert spec_of(text).exports["h5"].single is True  # type: ignore[union-attr]
    assert spec_of(text, SINGLE="false").exports["h5"].single is False  # type: ignore[union-attr]


def test_variables_are_not_kept_resolved() -> None:
    assert read_document(SPEC)["store"] == "${STORE:-./store}"


def test_anchors_and_merges_work() -> None:
    text = SPEC + (
        "indexes:\n"
        "  one: &one {feature: frames, output: semantic}\n"
        "  two: {<<: *one, output: pooled, metric: l2}\n"
        "  three: *one\n"
    )
    spec = spec_of(text)
    assert spec.indexes["two"].output == "pooled"
    assert spec.indexes["three"] == spec.indexes["one"]


def test_one_pattern_may_stand_without_a_list() -> None:
    assert spec_of(SPEC).sources["clips"].glob == ["media/*.mp4"]  # type: ignore[union-attr]


def test_spec_is_read_again_as_it_was_written() -> None:
    spec = spec_of(SPEC + "limits: {segment: 90s, media: {max_bytes: 3MB, max_duration: 2h}}\n")
    assert parse_document(spec.model_dump(mode="json"), {}) == spec


def test_file_is_read_with_its_overrides(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC, encoding="utf-8-sig")
    assert load_spec(path, ["name=other"], {}).name == "other"
    assert load_document(path)["name"] == "demo"


def test_all_wrong_references_are_reported_at_once() -> None:
    text = SPEC.replace("source: clips", "source: clip").replace("encoder: lite0,", "encoder: lite1,")
    with pytest.raises(SpecError) as told:
        spec_of(text)
    assert len(str(told.value).splitlines()) == 2


def test_a_cycle_not_through_the_start_is_found_once() -> None:
    text = SPEC.replace(
        "minilm: {kind: minilm}", "minilm: {kind: minilm, text_encoder: b}\n  b: {kind: x, text_encoder: minilm}"
    )
    with pytest.raises(SpecError, match="encoders name each other in a circle: minilm -> b -> minilm"):
        spec_of(text)


@given(st.text())
def test_any_text_is_a_document_or_a_spec_error(text: str) -> None:
    try:
        document = read_document(text)
    except SpecError as error:
        assert str(error).splitlines() == [str(error)]  # noqa: PT017 (the text of the error is what is tested)
    else:
        assert isinstance(document, dict)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)))
def test_any_document_is_a_spec_or_a_spec_error(document: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        parse_document({"version": 1} | document, {})


@given(st.lists(st.text(min_size=1), min_size=1, max_size=40), st.text(min_size=1))
def test_nearest_ends_a_sentence(known: list[str], name: str) -> None:
    assert nearest(name, known)[-1] in ".?"


@given(st.text() | st.integers() | st.lists(st.integers()))
def test_quoted_values_are_short(value: object) -> None:
    assert len(short(value)) <= 60

"""The reference page and the JSON Schema follow from the models."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel

from cliploom.pipelines.cli.reference import documented, nested_models, spec_markdown, spec_schema
from cliploom.schemas.errors import SpecError
from cliploom.schemas.sampling import FirstFrames, WindowShape
from cliploom.schemas.sources import HttpSpec
from cliploom.schemas.spec import Limits, Spec
from cliploom.schemas.spec_file import parse_document
from cliploom.transforms.encoders.registry import family, kinds


def test_page_tells_every_encoder_and_every_key_of_the_file() -> None:
    page = spec_markdown()
    assert all(f"### kind: {kind}\n" in page for kind in kinds())
    assert all(f"| `{name}` |" in page for name in (*Spec.model_fields, *Limits.model_fields))
    assert "| `every` | string | required |" in page
    assert "| `max_failed` | string | `10%` |" in page


def test_page_has_no_empty_description_of_a_section() -> None:
    blocks = spec_markdown().split("\n## ")
    assert all(len(block.splitlines()) > 3 for block in blocks[1:])


def reachable() -> set[type[BaseModel]]:
    """Every model that can stand in a spec, options of our own encoders among them, not those that tests installed."""
    found = set(nested_models(Spec))
    for kind in kinds():
        found |= set(nested_models(family(kind).Options))
    return {model for model in found if model.__module__.startswith("cliploom.")}


def test_every_type_that_a_spec_can_hold_has_a_table_with_all_of_its_keys() -> None:
    page = spec_markdown()
    titles = documented()
    models = reachable()
    assert {FirstFrames, WindowShape, HttpSpec} < models
    for model in models:
        section = re.split(rf"\n#+ {re.escape(titles[model])}\n", page)[1]
        table = re.split(r"\n#+ ", section)[0]
        for name, field in model.model_fields.items():
            assert f"| `{field.alias or name}` |" in table, (model, name)
        # No row without a word on what it is.
        assert "|  |\n" not in table, model


def test_links_of_the_page_lead_to_its_sections() -> None:
    page = spec_markdown()
    headings = [line.lstrip("# ") for line in page.splitlines() if line.startswith("#")]
    anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings]
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= set(anchors)


SPEC: dict[str, Any] = {
    "version": 1,
    "name": "a",
    "store": "s",
    "sources": {"c": {"kind": "media", "glob": ["*.mp4"]}},
    "encoders": {"e": {"kind": "efficientnet_lite0"}},
    "features": {"f": {"source": "c", "encoder": "e"}},
}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("features.f.sample", {"first": 5}, "sample.first: 5 is wrong: must be a mapping with the key frames."),
        (
            "features.f.sample",
            {"window": 32},
            "sample.window: 32 is wrong: must be a mapping with the keys frames and stride (and optionally fps).",
        ),
        ("features.f.sample", {"first": {"n": 5}}, "sample.first.n: unknown key; known: frames."),
        ("sources.c.http", 5, "must be a mapping with any of the keys connect_timeout, read_timeout, timeout, "),
        ("sources.c", 3, "the key kind (media, tfrecord, narrations, labels, precomputed) and those of the kind."),
        ("features", [1], "must be a mapping of names to mappings with the key source (and optionally "),
        ("limits.media", 3, "any of the keys max_bytes, max_pixels, max_duration, max_frames."),
        ("sources.c.labels", {"colum": "x"}, "labels.colum: unknown key; did you mean 'column'?"),
    ],
)
def test_a_refusal_of_a_wrong_shape_names_the_keys(path: str, value: Any, message: str) -> None:
    *parents, last = path.split(".")
    document = {key: dict(each) if isinstance(each, dict) else each for key, each in SPEC.items()}
    here = document
    for key in parents:
        here[key] = dict(here.get(key, {}))
        here = here[key]
    here[last] = value
    with pytest.raises(SpecError) as caught:
        parse_document(document)
    assert message in str(caught.value)


def test_schema_is_one_that_editors_take() -> None:
    schema = spec_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(schema["properties"]) == set(Spec.model_fields)
    assert schema["additionalProperties"] is False
    assert sorted(schema["required"]) == ["name", "sources", "store", "version"]

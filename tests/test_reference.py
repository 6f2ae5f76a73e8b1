"""The reference page and the JSON Schema follow from the models."""

from __future__ import annotations

from cliploom.pipelines.cli.reference import spec_markdown, spec_schema
from cliploom.schemas.spec import Limits, Spec
from cliploom.transforms.encoders.registry import kinds


def test_page_tells_every_encoder_and_every_key_of_the_file() -> None:
    page = spec_markdown()
    assert all(f"### kind: {kind}\n" in page for kind in kinds())
    assert all(f"| `{name}` |" in page for name in (*Spec.model_fields, *Limits.model_fields))
    assert "| `every` | string | required |" in page
    assert "| `max_failed` | string | `10%` |" in page


def test_page_has_no_empty_description_of_a_section() -> None:
    blocks = spec_markdown().split("\n## ")
    assert all(len(block.splitlines()) > 3 for block in blocks[1:])


def test_schema_is_one_that_editors_take() -> None:
    schema = spec_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(schema["properties"]) == set(Spec.model_fields)
    assert schema["additionalProperties"] is False
    assert sorted(schema["required"]) == ["name", "sources", "store", "version"]

"""The spec's JSON Schema for editors, and its reference page, both generated from the models."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, PlainSerializer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cliploom.schemas import (
    evaluations,
    exports,
    head_steps,
    heads,
    sampling,
    sources,
    spec,
    spec_base,
    vector_heads,
)
from cliploom.transforms.encoders.onnx_options import OnnxInput, OnnxOutput, OnnxText
from cliploom.transforms.encoders.registry import family, kinds
from cliploom.transforms.encoders.saved_model_options import SavedModelText
from cliploom.transforms.encoders.torch_model import TorchOutput

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The whole file", spec.Spec),
    ("sources: kind media", sources.MediaSource),
    ("`sources.<name>.http` of media", sources.HttpSpec),
    ("`sources.<name>.uid`: a regular expression", spec_base.UidRegex),
    ("`sources.<name>.labels`: a column", sources.LabelColumn),
    ("`sources.<name>.labels`: a file", sources.LabelFile),
    ("sources: kind tfrecord", sources.TfrecordSource),
    ("sources: kind tfrecord, fields", sources.ExampleFieldSpec),
    ("sources: kind narrations", sources.NarrationsSource),
    ("`sources.<name>.columns` of narrations", sources.TextColumns),
    ("keep: of narrations and pairs", spec_base.KeepSpec),
    ("sources: kind media, labels of folders named by ids", sources.FolderTexts),
    ("sources: kind labels", sources.LabelsSource),
    ("sources: kind precomputed", sources.PrecomputedSource),
    ("`sources.<name>.window` of precomputed features", sources.WindowLawSpec),
    ("encoders", spec.EncoderSpec),
    ("features", spec.FeatureSpec),
    ("indexes", spec.IndexSpec),
    ("exports: kind hdf5", exports.Hdf5Export),
    ("exports: kind tfrecord", exports.TfrecordExport),
    ("exports: kind tfrecord, pca", exports.PcaSpec),
    ("exports: kind pairs", exports.PairsExport),
    ("`exports.<name>.splits` of pairs", exports.SplitSpec),
    ("`pool: {take: n}` of pairs", exports.TakeSpec),
    ("heads: kind logistic (the default)", heads.HeadSpec),
    ("heads: kind zero_shot", heads.ZeroShotSpec),
    ("`heads.<name>.inputs`", heads.HeadInput),
    ("`heads.<name>.transform`", heads.HeadTransform),
    ("`heads.<name>.transform.steps`: kind zscore", head_steps.ZscoreStep),
    ("`heads.<name>.transform.steps`: kind range", head_steps.RangeStep),
    ("`heads.<name>.transform.steps`: kind pca", head_steps.PcaStep),
    ("`heads.<name>.transform.steps`: kind buckets", head_steps.BucketsStep),
    ("`heads.<name>.transform.steps`: kind vocabulary", head_steps.VocabularyStep),
    ("heads: kind two_tower", vector_heads.TwoTowerSpec),
    ("heads: kind two_tower, clip and text", vector_heads.VectorInput),
    ("heads: kind two_tower, negatives", vector_heads.Negatives),
    ("heads: kind devise", vector_heads.DeviseSpec),
    ("`heads.<name>.retrain`", heads.Retrain),
    ("encoders: kind head", heads.HeadEncoder),
    ("evaluations: kind retrieval", evaluations.RetrievalEvaluation),
    ("evaluations: kind similar", evaluations.SimilarEvaluation),
    ("evaluations: kind labels", evaluations.LabelsEvaluation),
    ("evaluations: kind words", evaluations.WordsEvaluation),
    ("targets", spec.Target),
    ("limits", spec.Limits),
    ("limits.media", spec.MediaLimitsSpec),
)
_ENCODER_PARTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("`input` of onnx, saved_model, frozen_graph and keras", OnnxInput),
    ("`outputs.<name>` of these kinds", OnnxOutput),
    ("`text` of onnx", OnnxText),
    ("`text` of saved_model", SavedModelText),
    ("`outputs.<name>` of torch", TorchOutput),
)
_SAMPLINGS = (
    sampling.Every,
    sampling.EveryFrames,
    sampling.Window,
    sampling.First,
    sampling.Uniform,
    sampling.Keyframes,
    sampling.Yt8m,
)
_SAMPLING_PARTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("inside `window`", sampling.WindowShape),
    ("inside `first`", sampling.FirstFrames),
    ("inside `distinct`", sampling.Distinct),
)


def spec_schema() -> dict[str, Any]:
    """JSON Schema of a spec file, with the kinds of sources that installed packages offer.

    Raises:
        CliploomError: if such a package can't be loaded.
    """
    found = spec.Spec.model_json_schema()
    kinds_of_sources = found["properties"]["sources"]["additionalProperties"]
    for kind in sorted(set(sources.source_kinds()) - set(sources.BUILT_IN)):
        model = sources.offered_node(kind)
        if model is None:
            continue
        node = model.model_json_schema()
        node["properties"]["kind"] = {"const": kind, "type": "string"}
        found["$defs"] |= node.pop("$defs", {})
        found["$defs"][f"source-{kind}"] = node
        kinds_of_sources["oneOf"].append({"$ref": f"#/$defs/source-{kind}"})
        kinds_of_sources["discriminator"]["mapping"][kind] = f"#/$defs/source-{kind}"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | found


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from models_in(argument)


def nested_models(model: type[BaseModel], path: str = "") -> dict[type[BaseModel], str]:
    """Return a model and all models nested in it, each with the path of one of its locations."""
    found = {model: path}
    for name, field in model.model_fields.items():
        inner = f"{path}.{field.alias or name}" if path else field.alias or name
        if getattr(field.annotation, "__origin__", None) is dict:
            inner += ".<name>"
        for each in models_in(field.annotation):
            if each not in found:
                found = nested_models(each, inner) | found
    return found


def documented() -> dict[type[BaseModel], str]:
    """Return every model with a section on the page, and the section's title."""
    titles = _titles()
    return titles | _untitled(titles)


def _titles() -> dict[type[BaseModel], str]:
    titles = {model: title for title, model in (*_SECTIONS, *_SAMPLING_PARTS, *_ENCODER_PARTS)}
    titles |= {model: next(iter(model.model_fields)) for model in _SAMPLINGS}
    return titles | {family(kind).Options: f"kind: {kind}" for kind in kinds()}


def _untitled(titles: Collection[type[BaseModel]]) -> dict[type[BaseModel], str]:
    """Return models of a spec without an assigned title: they get the path of one of their locations."""
    reached = nested_models(spec.Spec)
    for kind in kinds():
        reached |= nested_models(family(kind).Options, "encoders.<name>")
    return {model: f"`{path}`" for model, path in reached.items() if model not in titles}


def spec_markdown() -> str:
    """Return the page ``docs/spec.md``."""
    lines = [
        "# The spec",
        "",
        "Generated by `cliploom schema --markdown`; `cliploom schema` prints the JSON Schema for editors.",
        "Durations have a unit (`500ms`, `1s`, `10m`), sizes too (`16MB`, `1GiB`), shares a percent sign (`10%`).",
        "`${VAR}` and `${VAR:-default}` come from the environment; `--set a.b.c=value` overrides a value.",
    ]
    untitled = _untitled(_titles())
    titles = _titles() | untitled
    for title, model in (*_SECTIONS, *((title, model) for model, title in untitled.items())):
        lines += ["", f"## {title}", "", *_describe(model, titles)]
    lines += ["", "## Samplings", "", "`sample` of a feature is exactly one of these.", ""]
    for model in _SAMPLINGS:
        lines += [f"### {next(iter(model.model_fields))}", "", *_describe(model, titles), ""]
    for title, model in _SAMPLING_PARTS:
        lines += [f"### {title}", "", *_describe(model, titles), ""]
    lines += ["## Kinds of encoders", ""]
    for kind in kinds():
        found = family(kind)
        lines += [f"### kind: {kind}", "", *_text(found.__class__), "", *_fields(found.Options, titles), ""]
    for title, model in _ENCODER_PARTS:
        lines += [f"### {title}", "", *_describe(model, titles), ""]
    return "\n".join(lines).rstrip()


def _describe(model: type[BaseModel], titles: Mapping[type[BaseModel], str]) -> list[str]:
    return [*_text(model), "", *_fields(model, titles)]


def _text(model: type) -> list[str]:
    text = inspect.getdoc(model) or ""
    return [re.sub(r"``([^`]*)``", r"`\1`", text.split("\n\nAttributes:")[0])]


def _fields(model: type[BaseModel], titles: Mapping[type[BaseModel], str]) -> list[str]:
    notes = _attribute_notes(model)
    shapes = model.model_json_schema(mode="serialization", by_alias=False).get("properties")
    if shapes is None:  # a model that serializes itself
        shapes = model.model_json_schema(mode="validation", by_alias=False).get("properties", {})
    if not shapes:
        return ["No keys."]
    links = {each.__name__: f"[{title}](#{_anchor(title)})" for each, title in titles.items()}
    lines = ["| key | value | default | |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        note = notes.get(field.alias or name) or ("chooses this kind." if name == "kind" else "")
        kind = _kind(shapes[name], links)
        lines.append(f"| `{field.alias or name}` | {kind} | {_default(field)} | {note} |")
    return lines


def _anchor(title: str) -> str:
    """Return the anchor that GitHub and MkDocs generate for a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def _attribute_notes(model: type[BaseModel]) -> dict[str, str]:
    """Return the Attributes entries of a model and its base classes, also of attributes that share a line."""
    notes: dict[str, str] = {}
    for each in reversed(model.__mro__):
        text = inspect.getdoc(each) or ""
        if not issubclass(each, BaseModel) or each is BaseModel or "Attributes:" not in text:
            continue
        for block in re.split(r"\n    (?=\w)", text.split("Attributes:", 1)[1]):
            names, _, note = block.strip().partition(":")
            for name in names.split(","):
                notes[name.strip()] = re.sub(r"``([^`]*)``", r"`\1`", " ".join(note.split()))
    return notes


def _kind(shape: dict[str, Any], links: Mapping[str, str]) -> str:
    """Describe the values that a JSON Schema property allows, in a few words."""
    if "anyOf" in shape or "oneOf" in shape:
        options = [_kind(option, links) for option in shape.get("anyOf") or shape["oneOf"]]
        return " or ".join(dict.fromkeys(option for option in options if option != "null"))
    if "$ref" in shape:
        name = str(shape["$ref"]).rsplit("/", 1)[-1]
        return links.get(name, name)
    if "const" in shape:
        return f"`{str(shape['const']).lower() if shape['const'] is True else shape['const']}`"
    if "enum" in shape:
        return ", ".join(f"`{option}`" for option in shape["enum"])
    if shape.get("type") == "array":
        return f"list of {_kind(shape.get('items', {}), links)}" if shape.get("items") else "list"
    if shape.get("type") == "object":
        values = shape.get("additionalProperties")
        if not isinstance(values, dict) or not values:
            return "mapping"
        kind = _kind(values, links)
        return f"{'names to' if '](#' in kind else 'mapping to'} {kind}"
    return str(shape.get("type", "any"))


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None or isinstance(field.default, BaseModel | dict):
        return ""
    for note in field.metadata:
        if isinstance(note, PlainSerializer):
            return f"`{note.func(field.default)}`"  # type: ignore[call-arg]
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"

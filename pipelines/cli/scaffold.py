"""Writes a first spec for a folder of media, and draws a spec's DAG."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cliploom.pipelines.console import counted
from cliploom.schemas.errors import SpecError
from cliploom.schemas.head_references import tower_inputs
from cliploom.schemas.heads import HEAD
from cliploom.schemas.media import MEDIA_SUFFIXES, MEDIA_TYPES
from cliploom.schemas.spec import Spec
from cliploom.schemas.vector_heads import DeviseSpec, TwoTowerSpec
from cliploom.transforms.inputs.listing import walk_folder
from cliploom.transforms.store.uris import absolute

NAMED = 3
"""Maximum number of ignored names to show."""

TEMPLATE = """\
# Features of every second of each file, search indexes over them, and an HDF5 copy.
# cliploom run {spec} --limit 100 && cliploom search {store} "a dog on a beach"
version: 1
name: {name}
store: {store}

sources:
  clips:
    kind: media
    glob: {glob}
    types: media  # files with the extensions of videos, GIFs and images, in capitals or not
    uid: file  # the path with its extension names an item: IMG_1.jpg and IMG_1.mov are two

encoders:
{encoders}

features:
  frames: {{source: clips, sample: {{every: 1s}}, encoder: {encoder}, outputs: [{outputs}]}}

indexes:
{indexes}

exports:
  frames_h5: {{kind: hdf5, feature: frames}}

limits: {{max_failed: 10%, max_deleted: 10%, max_recompute: 100%}}
"""

BUILT_IN = {
    "encoders": "  minilm: {kind: minilm}\n  lite0:  {kind: efficientnet_lite0, precision: f32, text_encoder: minilm}",
    "encoder": "lite0",
    "outputs": "pooled, semantic",
    "indexes": (
        "  frames: {feature: frames, output: semantic, metric: cosine, kind: auto}  # asked by words\n"
        "  looks: {feature: frames, output: pooled, metric: cosine, kind: auto}  # asked by --like"
    ),
}


@dataclass(frozen=True)
class Census:
    """Contents of a folder, as a media source with ``types: media`` lists them.

    Attributes:
        types: files by type of ``MEDIA_TYPES``.
        hidden: names of hidden files and folders with media, which are not listed.
        others: files of other types by extension; empty without any.
    """

    types: Counter[str]
    hidden: tuple[str, ...]
    others: Counter[str]

    def found_text(self) -> str:
        """Return the number of files of each type as text."""
        names = {"videos": ("video", ""), "gifs": ("GIF", ""), "images": ("image", "")}
        return ", ".join(counted(self.types[name], *words) for name, words in names.items() if self.types[name])

    def left_out_text(self) -> str:
        """Return a line that says what is ignored and why; empty if nothing is ignored."""
        said = []
        if self.hidden:
            said.append(f"{counted(len(self.hidden), 'hidden file or folder', 'hidden files or folders')}")
            said[-1] += f" ({_some(self.hidden)})"
        if self.others:
            suffixes = [suffix or "without an extension" for suffix, _ in self.others.most_common()]
            said.append(f"{counted(self.others.total(), 'file')} of other types ({_some(suffixes)})")
        return f"Left out: {', '.join(said)}." if said else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def count_media(folder: Path) -> Census:
    """Count a folder's files by type; linked folders are followed and hidden ones left out, as a run does.

    Raises:
        CliploomError: if a folder cannot be listed.
    """
    types: Counter[str] = Counter()
    others: Counter[str] = Counter()
    hidden: dict[str, None] = {}
    for relative, path, is_folder in walk_folder(absolute(folder)):
        if is_folder:
            continue
        suffix = path.suffix.lower()
        steps = relative.split("/")
        first_hidden = next((number for number, step in enumerate(steps) if step.startswith(".")), None)
        if first_hidden is not None:
            if suffix in MEDIA_SUFFIXES:
                hidden["/".join(steps[: first_hidden + 1])] = None
        elif suffix in MEDIA_SUFFIXES:
            types[next(name for name, suffixes in MEDIA_TYPES.items() if suffix in suffixes)] += 1
        else:
            others[suffix] += 1
    return Census(types, tuple(hidden), others)


def write_spec(folder: Path, spec: Path, force: bool, model: str | None = None) -> Census:
    """Write a spec for the media below ``folder``, and return what was found.

    The spec names types of files instead of existing files, so that later files are found as well.

    Args:
        folder: folder with media.
        spec: file to write.
        force: whether to replace an existing file.
        model: ``clip:`` and a folder or a name on the hub; None for the built-in encoders.

    Raises:
        SpecError: if the folder does not exist or has no media, the spec exists already, or the model does not take
            pictures and sentences.
    """
    chosen = BUILT_IN if model is None else _clip_encoder(model, absolute(spec).parent)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise SpecError(f"{str(folder)!r} {what}; name the folder that holds the media.")
    if spec.exists() and not force:
        raise SpecError(f"{spec} is there already; choose another name with --spec, or replace it with --force.")
    census = count_media(folder)
    if not census.types:
        raise SpecError(
            f"{str(folder)!r} holds no videos, GIFs or images; name the folder that holds them. "
            f"{census.left_out_text()}".rstrip()
        )
    home = absolute(spec).parent
    try:
        relative = absolute(folder).relative_to(home).as_posix()
    except ValueError:
        relative = absolute(folder).as_posix()
    # Wildcards in the folder's name are escaped; JSON strings are also valid YAML.
    start = "" if relative == "." else re.sub(r"([*?\[])", r"[\1]", relative) + "/"
    glob = json.dumps(f"{start}**/*", ensure_ascii=False)
    name = re.sub(r"[^A-Za-z0-9_-]", "-", absolute(folder).name)
    name = name if name[:1].isalpha() else f"media-{name}"
    text = TEMPLATE.format(name=name[:64].rstrip("-") or "media", store="./store", glob=glob, spec=spec.name, **chosen)
    try:
        spec.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{spec} can't be written ({error.strerror}); choose another place with --spec.") from None
    return census


def _clip_encoder(model: str, home: Path) -> dict[str, str]:
    """Return the values of the template for a model with towers for pictures and sentences.

    >>> _clip_encoder("clip:openai/clip-vit-base-patch32", Path("/home"))["encoders"]
    '  clip: {kind: clip, model: "openai/clip-vit-base-patch32"}'
    """
    from cliploom.transforms.encoders.clip_folder import find_clip

    kind, _, name = model.partition(":")
    if kind != "clip" or not name:
        raise SpecError(
            f"--model {model!r} names no model; write clip:FOLDER, such as --model clip:./clip-vit-base-patch32."
        )
    local = absolute(Path(name).expanduser())
    if local.exists():
        find_clip(str(local))  # report a folder that is not a model now instead of in the first run
        name = local.relative_to(home).as_posix() if local.is_relative_to(home) else local.as_posix()
    elif name.startswith((".", "/", "~")):
        raise SpecError(f"--model: there is no folder {name!r}; give the folder of the model.")
    return {
        "encoders": f"  clip: {{kind: clip, model: {json.dumps(name, ensure_ascii=False)}}}",
        "encoder": "clip",
        "outputs": "image",
        "indexes": "  frames: {feature: frames, output: image, metric: cosine, kind: auto}",
    }


def mermaid(spec: Spec) -> str:
    """Return the spec's DAG as a Mermaid flowchart: sources, encoders, features, indexes, exports, heads."""
    lines = ["flowchart LR"]
    lines += [f"  source_{name}[/{name}: {source.kind}/]" for name, source in spec.sources.items()]
    lines += [f"  encoder_{name}([{name}: {encoder.kind}])" for name, encoder in spec.encoders.items()]
    lines += [f"  feature_{name}[{name}]" for name in spec.features]
    lines += [f"  index_{name}[({name}: index)]" for name in spec.indexes]
    lines += [f"  export_{name}[[{name}: {export.kind}]]" for name, export in spec.exports.items()]
    lines += [f"  head_{name}{{{{{name}: head}}}}" for name in spec.heads]
    for name, encoder in spec.encoders.items():
        if encoder.text_encoder is not None:
            lines.append(f"  encoder_{encoder.text_encoder} -.-> encoder_{name}")
        if encoder.kind == HEAD:
            lines.append(f"  head_{encoder.options['head']} --> encoder_{name}")
    for name, head in spec.heads.items():
        inputs = tower_inputs(spec, head) if isinstance(head, TwoTowerSpec) else head.inputs
        lines += [f"  feature_{feature} --> head_{name}" for feature in dict.fromkeys(i.feature for i in inputs)]
        if isinstance(head, DeviseSpec):
            lines.append(f"  encoder_{head.text_encoder} -.-> head_{name}")
    for name, feature in spec.features.items():
        lines.append(f"  source_{feature.source} --> feature_{name}")
        if feature.encoder is not None:
            lines.append(f"  encoder_{feature.encoder} --> feature_{name}")
    lines += [f"  feature_{index.feature} --> index_{name}" for name, index in spec.indexes.items()]
    lines += [f"  feature_{export.feature} --> export_{name}" for name, export in spec.exports.items()]
    return "\n".join(lines)

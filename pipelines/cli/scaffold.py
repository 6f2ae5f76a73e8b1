"""Starting points: a spec for a folder of media, and a spec's DAG as a picture."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from cliploom.schemas.errors import SpecError
from cliploom.schemas.heads import HEAD
from cliploom.schemas.media import MEDIA_SUFFIXES
from cliploom.schemas.spec import Spec
from cliploom.transforms.store.uris import absolute

TEMPLATE = """\
# Features of every second of each file, a search index over them, and an HDF5 copy.
# cliploom run {spec} --limit 100 && cliploom search {store} "a dog on a beach"
version: 1
name: {name}
store: {store}

sources:
  clips:
    kind: media
    glob: [{globs}]
    uid: file  # the path with its extension names an item: IMG_1.jpg and IMG_1.mov are two

encoders:
  minilm: {{kind: minilm}}
  lite0:  {{kind: efficientnet_lite0, precision: f32, text_encoder: minilm}}

features:
  frames: {{source: clips, sample: {{every: 1s}}, encoder: lite0, outputs: [pooled, semantic]}}

indexes:
  frames: {{feature: frames, output: semantic, metric: cosine, kind: auto}}

exports:
  frames_h5: {{kind: hdf5, feature: frames}}

limits: {{max_failed: 10%, max_deleted: 10%, max_recompute: 100%}}
"""


def write_spec(folder: Path, spec: Path, force: bool) -> int:
    """Write a spec for the media below ``folder``; returns how many files were found.

    Raises:
        SpecError: when the folder is missing or holds no media, or the spec is there already.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise SpecError(f"{str(folder)!r} {what}; name the folder that holds the media.")
    if spec.exists() and not force:
        raise SpecError(f"{spec} is there already; choose another name with --spec, or replace it with --force.")
    counts: dict[str, int] = {}
    for _, _, names in os.walk(folder):
        for name in names:
            suffix = Path(name).suffix
            if suffix.lower() in MEDIA_SUFFIXES and not name.startswith("."):
                counts[suffix] = counts.get(suffix, 0) + 1
    if not counts:
        raise SpecError(
            f"{folder} holds no files that look like media ({', '.join(sorted(MEDIA_SUFFIXES))}); name another."
        )
    home = absolute(spec).parent
    try:
        relative = absolute(folder).relative_to(home).as_posix()
    except ValueError:
        relative = absolute(folder).as_posix()
    # A folder's own wildcards are meant as letters; JSON's quotes are YAML's too.
    start = "" if relative == "." else re.sub(r"([*?\[])", r"[\1]", relative) + "/"
    globs = ", ".join(json.dumps(f"{start}**/*{suffix}", ensure_ascii=False) for suffix in sorted(counts))
    name = re.sub(r"[^A-Za-z0-9_-]", "-", absolute(folder).name)
    name = name if name[:1].isalpha() else f"media-{name}"
    text = TEMPLATE.format(name=name[:64].rstrip("-") or "media", store="./store", globs=globs, spec=spec.name)
    try:
        spec.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{spec} can't be written ({error.strerror}); choose another place with --spec.") from None
    return sum(counts.values())


def mermaid(spec: Spec) -> str:
    """The spec's DAG as a Mermaid flowchart: sources, encoders, features, indexes, exports, heads."""
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
        lines += [f"  feature_{feature} --> head_{name}" for feature in dict.fromkeys(i.feature for i in head.inputs)]
    for name, feature in spec.features.items():
        lines.append(f"  source_{feature.source} --> feature_{name}")
        if feature.encoder is not None:
            lines.append(f"  encoder_{feature.encoder} --> feature_{name}")
    lines += [f"  feature_{index.feature} --> index_{name}" for name, index in spec.indexes.items()]
    lines += [f"  feature_{export.feature} --> export_{name}" for name, export in spec.exports.items()]
    return "\n".join(lines)

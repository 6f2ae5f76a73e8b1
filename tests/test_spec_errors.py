"""Every error in a spec gives one sentence with its location, the value and the fix; exit code 2."""

from __future__ import annotations

import copy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Command, Ended, assert_one_sentence, command

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
  frames: {feature: frames, output: semantic}
exports:
  h5: {kind: hdf5, feature: frames}
"""
SAMPLE = "features.frames.sample"
DROP = object()


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


def edited(changes: dict[str, Any]) -> str:
    """The spec with values replaced, by their paths."""
    document = copy.deepcopy(yaml.safe_load(SPEC))
    for path, value in changes.items():
        *parents, last = path.split(".")
        here = document
        for step in parents:
            here = here[step]
        if value is DROP:
            del here[last]
        else:
            here[last] = value
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


# name -> text of the spec, what the sentence must say
TEXTS: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "python tag": ("version: !!python/object:os.system 1\n", ("line 1, column 10", "os.system", "plain")),
    "own tag": ("version: 1\nname: !mine x\n", ("line 2, column 7", "!mine", "plain")),
    "set": ("version: 1\nname: demo\nstore: s\nsources: !!set {a}\n", ("sources: {'a'}", "YAML type set", "plain")),
    "binary": (SPEC.replace("./store", "!!binary aGVsbG8="), ("store: b'hello'", "YAML type bytes", "plain")),
    "impossible date": (SPEC.replace("./store", "!!timestamp 2020-13-45"), ("month must be in 1..12", "quote")),
    "key twice": ("version: 1\nversion: 2\n", ("line 2, column 1", "'version' occurs twice", "remove or rename")),
    "node twice": (
        SPEC.replace("sources:\n", "sources:\n  clips: {kind: media, glob: x}\n"),
        ("line 6", "'clips' occurs twice", "remove or rename"),
    ),
    "list as key": ("? [a, b]\n: 1\n", ("line 1", "unhashable key", "a key must be a text")),
    "number as key": (SPEC.replace("  clips:", "  3:"), ("sources", "the key 3 is not a text", "quotes")),
    "truth as key": (SPEC + "on: 1\n", ("the key True is not a text", "quotes")),
    "null as key": (SPEC.replace("indexes:\n  frames:", "indexes:\n  ~:"), ("the key None is not a text", "quotes")),
    "tab": ("version: 1\n\tname: x\n", ("line 2, column 1", "'\\t'", "indent with spaces")),
    "open bracket": ("version: [1\n", ("line 2", "expected ',' or ']'", "check brackets")),
    "open quote": ('version: "1\n', ("end of stream", "check brackets, quotes")),
    "empty": ("", ("is empty", "cliploom init")),
    "only a comment": ("# nothing\n", ("is empty", "cliploom init")),
    "list": ("- a\n- b\n", ("must be a mapping with version", "['a', 'b']")),
    "text": ("hello", ("must be a mapping with version", "'hello'")),
    "two documents": (SPEC + "---\n" + SPEC, ("another document", "remove the line ---")),
    "NUL": ("version: 1\x00\n", ("#x0000", "correct")),
    "UTF-16": (SPEC.encode("utf-16"), ("not UTF-8 text (byte 0)", "is it a spec file?")),
    "Latin-1": ("name: caf\xe9\n".encode("latin-1"), ("not UTF-8 text (byte 9)", "is it a spec file?")),
    "nested too deep": ("a: " + "[" * 3000 + "]" * 3000, ("recursion", "correct")),
    "anchor in itself": ("a: &x [*x]\n", ("a.0", "anchor refers to itself", "write the values out")),
    "anchor of a mapping in itself": ("sources: &x {a: *x}\n", ("sources.a", "refers to itself", "write")),
    "anchors that explode": (
        "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '1'] * 12)}]\n" for n in range(9)),
        ("more than 1,000,000 values", "anchors"),
    ),
    "unknown anchor": ("version: *x\n", ("undefined alias 'x'", "needs quotes")),
    "number too long for YAML": (SPEC + "limits: {max_attempts: " + "9" * 5000 + "}\n", ("5000 digits", "correct")),
}

# name -> changes of the spec, what the sentence must say
CHANGES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "huge number": ({SAMPLE: {"uniform": 10**40}}, (f"{SAMPLE}.uniform", "more than 40 digits", "16777215 or less")),
    "NaN": ({SAMPLE: {"window": {"frames": 8, "stride": 4, "fps": float("nan")}}}, ("fps: nan", "finite number")),
    "infinity": ({SAMPLE: {"window": {"frames": 8, "stride": 4, "fps": float("inf")}}}, ("fps: inf", "finite")),
    "version of the future": ({"version": 2}, ("version: 2 is wrong: must be 1",)),
    "version as text": ({"version": "1"}, ("version: '1' is wrong: must be 1",)),
    "no version": ({"version": DROP}, ("version is missing; add 'version'",)),
    "name null": ({"name": None}, ("name is empty; give it a value",)),
    "name with a space": ({"name": "my demo"}, ("name: 'my demo' is not a name: a letter, then",)),
    "name in Unicode": ({"name": "d\xe9mo"}, ("name: 'd\xe9mo' is not a name", "a letter, then")),
    "name too long": ({"name": "a" * 70}, ("is not a name", "at most 64")),
    "name with a line end": ({"name": "demo\n"}, ("is not a name", "a letter, then")),
    "name as date": ({"name": date(2020, 1, 1)}, ("'2020-01-01' is not a name", "letter")),
    "sources null": ({"sources": None}, ("sources is empty; give it a value",)),
    "sources empty": ({"sources": {}}, ("sources: {} is empty; give at least one",)),
    "sources a list": ({"sources": ["clips"]}, ("sources: ['clips'] is wrong", "must be a mapping")),
    "source null": ({"sources.clips": None}, ("sources.clips is empty; give it a value",)),
    "source a text": ({"sources.clips": "media"}, ("sources.clips: 'media' is wrong", "must be a mapping")),
    "source without kind": ({"sources.clips.kind": DROP}, ("sources.clips.kind is missing; add 'kind'",)),
    "kind mistyped": ({"sources.clips.kind": "medai"}, ("sources.clips.kind: unknown 'medai'", "mean 'media'?")),
    "kind unknown": ({"sources.clips.kind": "audio"}, ("unknown 'audio'; known:", "media")),
    "kind a number": ({"sources.clips.kind": 3}, ("sources.clips.kind: unknown '3'; known:",)),
    "no glob": ({"sources.clips.glob": DROP}, ("sources.clips: give exactly one of 'glob'", "'table'")),
    "glob and table": ({"sources.clips.table": "x.csv"}, ("sources.clips: give exactly one of 'glob'",)),
    "glob a number": ({"sources.clips.glob": 3}, ("sources.clips.glob: 3 is wrong: must be a list",)),
    "glob without patterns": ({"sources.clips.glob": []}, ("glob: [] is empty; give at least one",)),
    "glob with a number": ({"sources.clips.glob": ["a", 3]}, ("glob.1: 3 is wrong: must be a text; put it in quotes",)),
    "glob with an empty pattern": ({"sources.clips.glob": [""]}, ("glob.0: '' is empty; fill it in",)),
    "source key mistyped": ({"sources.clips.globs": "x"}, ("sources.clips.globs: unknown key; did you mean 'glob'?",)),
    "uid unknown": ({"sources.clips.uid": "name"}, ("sources.clips.uid: unknown 'name'; known: file, path, stem",)),
    "uid regex broken": ({"sources.clips.uid": {"regex": "("}}, ("uid.regex: '(' is not a regular expression",)),
    "uid regex without group": ({"sources.clips.uid": {"regex": "a+"}}, ("uid.regex: 'a+' has no group", "parenth")),
    "uid a list": (
        {"sources.clips.uid": ["path"]},
        ("sources.clips.uid: ['path'] is wrong: must be",),
    ),
    "stereo": ({"sources.clips.stereo": "right"}, ("sources.clips.stereo: unknown 'right'; known: left",)),
    "section mistyped": ({"source": {}}, ("source: unknown key; did you mean 'sources'?",)),
    "encoder mistyped": ({"encoders.lite0.kind": "efficientnet_lite"}, ("mean 'efficientnet_lite0'?",)),
    "encoder unknown": ({"encoders.lite0.kind": "vit"}, ("no encoder kind 'vit'; known: clip",)),
    "encoder without kind": ({"encoders.lite0.kind": DROP}, ("encoders.lite0.kind is missing; add 'kind'",)),
    "encoder null": ({"encoders.lite0": None}, ("encoders.lite0 is empty; give it a value",)),
    "int8 of texts": (
        {"encoders.minilm.precision": "int8"},
        ("encoders.minilm.precision: int8 is for pictures", "int8_weights"),
    ),
    "precision unknown": ({"encoders.lite0.precision": "fp32"}, ("unknown 'fp32'; did you mean 'f32'?",)),
    "encoder option mistyped": ({"encoders.lite0.presicion": "f32"}, ("lite0.presicion: unknown key", "'precision'?")),
    "text encoder missing": ({"encoders.lite0.text_encoder": "minilmm"}, ("no encoder 'minilmm'", "mean 'minilm'?")),
    "text encoder itself": ({"encoders.lite0.text_encoder": "lite0"}, ("in a circle: lite0 -> lite0",)),
    "text encoder cycle": ({"encoders.minilm.text_encoder": "lite0"}, ("in a circle: minilm -> lite0 -> minilm",)),
    "text encoder of pictures": (
        {"encoders.eye": {"kind": "efficientnet_lite0"}, "encoders.lite0.text_encoder": "eye"},
        ("encoders.lite0.text_encoder: 'eye' does not encode text; name one that does",),
    ),
    "source dangling": ({"features.frames.source": "clip"}, ("no source 'clip'; did you mean 'clips'?",)),
    "encoder dangling": ({"features.frames.encoder": "resnet"}, ("no encoder 'resnet'; known: lite0, minilm",)),
    "text for pictures": (
        {"features.frames.encoder": "minilm", "features.frames.outputs": DROP, "indexes": {}},
        ("features.frames.encoder: 'minilm' encodes text",),
    ),
    "no sample": ({SAMPLE: DROP}, ("features.frames.sample is missing", "sample: {every: 1s}")),
    "sample a word": ({SAMPLE: "every"}, (f"{SAMPLE}: 'every' is wrong: a sampling is exactly one of every",)),
    "sample of two kinds": ({SAMPLE: {"every": "1s", "uniform": 3}}, ("exactly one of every", "{every: 1s}")),
    "sample mistyped": ({SAMPLE: {"evry": "1s"}}, ("{'evry': '1s'} is wrong", "such as {every: 1s}")),
    "sample key mistyped": (
        {SAMPLE: {"every": "1s", "max_frame": 3}},
        (f"{SAMPLE}.max_frame: unknown key; did you mean 'max_frames'?",),
    ),
    "duration without unit": ({SAMPLE: {"every": 1}}, (f"{SAMPLE}.every: 1 is not a duration", "write 1s")),
    "duration in another unit": ({SAMPLE: {"every": "1 sec"}}, ("'1 sec' is not a duration with a unit", "500ms")),
    "duration zero": ({SAMPLE: {"every": "0s"}}, ("'0s' is wrong: must be greater than 0",)),
    "duration negative": ({SAMPLE: {"every": "-1s"}}, ("'-1s' is not a duration with a unit", "500ms")),
    "duration endless": ({SAMPLE: {"every": "9" * 400 + "s"}}, ("is not a duration with a unit", "500ms")),
    "duration in other digits": ({SAMPLE: {"every": "\u0661s"}}, ("'\u0661s' is not a duration", "500ms")),
    "frames zero": ({SAMPLE: {"every_frames": 0}}, (f"{SAMPLE}.every_frames: 0 is wrong: must be greater than 0",)),
    "frames half": ({SAMPLE: {"every_frames": 1.5}}, ("every_frames: 1.5 is wrong: must be a whole number",)),
    "frames as text": ({SAMPLE: {"every_frames": "2"}}, ("every_frames: '2' is wrong: must be a whole number",)),
    "window without stride": ({SAMPLE: {"window": {"frames": 8}}}, ("window.stride is missing; add 'stride'",)),
    "window a number": ({SAMPLE: {"window": 8}}, (f"{SAMPLE}.window: 8 is wrong: must be a mapping",)),
    "pad": (
        {SAMPLE: {"window": {"frames": 8, "stride": 1}, "pad": "zeros"}},
        (f"{SAMPLE}.pad: unknown 'zeros'; did you mean 'zero'?",),
    ),
    "keyframes false": ({SAMPLE: {"keyframes": False}}, (f"{SAMPLE}.keyframes: False is wrong: must be true",)),
    "output unknown": ({"features.frames.outputs": ["poled"]}, ("no output 'poled'; did you mean 'pooled'?",)),
    "output without text encoder": (
        {"encoders.lite0.text_encoder": DROP},
        ("encoder 'lite0' has no output 'semantic'", "It needs encoders.lite0.text_encoder"),
    ),
    "outputs a word": ({"features.frames.outputs": "pooled"}, ("outputs: 'pooled' is wrong: must be a list",)),
    "outputs empty": ({"features.frames.outputs": []}, ("features.frames.outputs: [] is empty; give at least one",)),
    "output twice": ({"features.frames.outputs": ["pooled", "pooled"]}, ("names an output twice",)),
    "index feature dangling": ({"indexes.frames.feature": "frame"}, ("no feature 'frame'; did you mean 'frames'?",)),
    "index output unknown": ({"indexes.frames.output": "semantics"}, ("no output 'semantics'", "mean 'semantic'?")),
    "index metric": ({"indexes.frames.metric": "cosin"}, ("indexes.frames.metric: unknown 'cosin'", "'cosine'?")),
    "index kind": ({"indexes.frames.kind": "ivf"}, ("indexes.frames.kind: unknown 'ivf'", "mean 'ivf_sq8'?")),
    "index nprobe": ({"indexes.frames.nprobe": 0}, ("indexes.frames.nprobe: 0 is wrong: must be greater than 0",)),
    "indexes a list": ({"indexes": ["frames"]}, ("indexes: ['frames'] is wrong: must be a mapping",)),
    "export kind": ({"exports.h5.kind": "hdf"}, ("exports.h5.kind: unknown 'hdf'; did you mean 'hdf5'?",)),
    "export feature dangling": ({"exports.h5.feature": "framez"}, ("no feature 'framez'; did you mean 'frames'?",)),
    "export output unknown": ({"exports.h5.output": "poold"}, ("no output 'poold'; did you mean 'pooled'?",)),
    "export single": ({"exports.h5.single": "ja"}, ("exports.h5.single: 'ja' is wrong: must be true or false",)),
    "store empty": ({"store": ""}, ("store: '' is empty; fill it in",)),
    "store a number": ({"store": 3}, ("store: 3 is wrong: must be a text; put it in quotes",)),
    "store by ftp": ({"store": "ftp://x/y"}, ("'ftp://x/y'", "use a folder, s3:// or gs://")),
    "no target": ({"targets": {}}, ("targets: {} is empty; give at least one",)),
    "target null": ({"targets": {"local": None}}, ("targets.local is empty; give it a value",)),
    "target runner": (
        {"targets": {"flink": {"runner": "FlinkRuner"}}},
        ("targets.flink.runner: Beam has no runner 'FlinkRuner'; did you mean 'FlinkRunner'?",),
    ),
    "target workers": ({"targets": {"local": {"workers": 0}}}, ("targets.local.workers: 0 is wrong",)),
    "share as number": ({"limits": {"max_failed": 0.1}}, ("limits.max_failed: 0.1 is not a percentage, such as 10%",)),
    "share above all": ({"limits": {"max_failed": "110%"}}, ("'110%' is more than 100%",)),
    "limit mistyped": ({"limits": {"max_fail": "10%"}}, ("limits.max_fail: unknown key", "mean 'max_failed'?")),
    "size without unit": ({"limits": {"media": {"max_bytes": 10}}}, ("max_bytes: 10 is not a size", "such as 16MB")),
    "size zero": ({"limits": {"media": {"max_bytes": "0MB"}}}, ("'0MB' is wrong: must be greater than 0",)),
    "size endless": ({"limits": {"media": {"max_bytes": "9" * 400 + "MB"}}}, ("is not a size", "such as 16MB")),
    "attempts negative": ({"limits": {"max_attempts": -1}}, ("max_attempts: -1 is wrong: must be greater than 0",)),
    "variable missing": ({"store": "${NOT_SET_X}/s"}, ("store:", "NOT_SET_X is not set", "${NOT_SET_X:-default}")),
    "variable malformed": ({"store": "${NOT SET}/s"}, ("'${NOT SET}/s'", "write ${NAME} or ${NAME:-default}")),
    "variable unclosed": ({"store": "${NOT_SET"}, ("'${NOT_SET'", "write ${NAME} or ${NAME:-default}")),
}

# text of --set, what the sentence must say
OVERRIDES: dict[str, tuple[str, ...]] = {
    "name": ("--set 'name' is not key.path=value", "features.frames.sample.every=2s"),
    "=3": ("--set '=3' is not key.path=value",),
    "a..b=3": ("--set 'a..b=3' is not key.path=value",),
    "features.frame.sample.every=2s": ("no 'frame' in features; did you mean 'frames'?",),
    "nam=x": ("nam: unknown key; did you mean 'name'?",),
    "name.x=3": ("name is 'demo', not a mapping", "name=..."),
    "name=[": ("'[' is not a YAML value", "put it in quotes"),
    "features.frames.outputs.0=pooled": ("features.frames.outputs is ['pooled', 'semantic'], not a mapping",),
    "features.frames.sample.every=2": ("every: 2 is not a duration with a unit", "write 2s"),
    "limits={max_failed: 1%, max_failed: 2%}": ("'max_failed' occurs twice", "put it in quotes"),
    "limits.max_failed=.nan": ("limits.max_failed: nan is not a finite number",),
}


@pytest.mark.parametrize("case", TEXTS)
def test_wrong_text(case: str, cliploom: Command, tmp_path: Path) -> None:
    text, said = TEXTS[case]
    spec = tmp_path / "spec.yaml"
    spec.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_one_sentence(cliploom("validate", spec), 2, said)


@pytest.mark.parametrize("case", CHANGES)
def test_wrong_value(case: str, cliploom: Command, tmp_path: Path) -> None:
    changes, said = CHANGES[case]
    spec = tmp_path / "spec.yaml"
    spec.write_text(edited(changes), encoding="utf-8")
    assert_one_sentence(cliploom("validate", spec), 2, said)


@pytest.mark.parametrize("override", OVERRIDES)
def test_wrong_override(override: str, cliploom: Command, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    assert_one_sentence(cliploom("validate", spec, "--set", override), 2, OVERRIDES[override])


def test_several_mistakes_are_a_sentence_each(cliploom: Command, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(edited({"name": "my demo", "sources.clips.globs": 1, "indexes.frames.kind": "ivf"}))
    ended = cliploom("validate", spec)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 3


def test_the_spec_itself_is_fine(cliploom: Command, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    assert cliploom("validate", spec) == Ended(
        0, f"{spec} is valid: 1 source, 2 encoders, 1 feature, 1 index, 1 export.\n", ""
    )

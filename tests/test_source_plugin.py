"""A kind of source of another package: the example is installed as a third party would, and its nights are run."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import yaml
from commands import ROOT
from PIL import Image
from stores import SmallStore

import cliploom
from cliploom.pipelines.cli.reference import spec_schema
from cliploom.pipelines.demo.corpus import CAT, COFFEE, PAGE, ROCKET
from cliploom.pipelines.demo.media import Photo
from cliploom.pipelines.running.preview import plan_preview
from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.schemas.sources import BUILT_IN, BuiltIn, SourceNode, is_about_media, source_kinds
from cliploom.schemas.spec import Spec
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.sources import KnownListing, ListContext, SourceKind
from cliploom.transforms.search.thumbnails import thumbnail
from cliploom.transforms.sources.registry import source_kind

EXAMPLE = ROOT / "examples" / "source_plugin"
SPEC = yaml.safe_load((EXAMPLE / "cliploom.yaml").read_text())
SPEC |= {"limits": {"max_failed": "100%", "max_deleted": "100%"}}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example as a wheel that is unpacked into a folder of the import path."""
    source = copytree(EXAMPLE, tmp_path_factory.mktemp("plugin") / "source")
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, text=True)
    installed = source.parent / "installed"
    zipfile.ZipFile(source / done.stdout.split()[-1]).extractall(installed)
    sys.path.insert(0, str(installed))
    yield installed
    sys.path.remove(str(installed))
    source_kind.cache_clear()


@dataclass(frozen=True)
class Tars:
    """A project whose images are in tars."""

    folder: Path

    def write(self, name: str, members: Mapping[str, bytes], **odd: Any) -> Path:
        path = self.folder / "shards" / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                for key, value in odd.items():
                    setattr(info, key, value)
                tar.addfile(info, io.BytesIO(data))
        return path

    def run(self, **options: Any) -> RunResult:
        document = load_document(self.folder / "cliploom.yaml")
        return run_spec(parse_document(document), document, self.folder, RunOptions(**options), lambda text: None)

    @property
    def store(self) -> str:
        return str(self.folder / "store")


@pytest.fixture
def tars(package: Path, tmp_path: Path) -> Tars:
    (tmp_path / "cliploom.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    return Tars(tmp_path)


def image(photo: Photo, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    picture: Image.Image = photo.load().resize((160, 120))
    picture.save(buffer, form)
    return buffer.getvalue()


def vectors(store: str) -> dict[str, list[float]]:
    rows = cliploom.open(store).table("looks").select("uid", "pooled").collect()
    return {uid: list(vector) for uid, vector in rows.rows()}


def test_nights_over_tars(tars: Tars, built_store: SmallStore) -> None:
    """List, probe, compute; then nothing new; then renamed, changed, deleted and added images; then a damaged tar."""
    copytree(built_store.store / "models", tars.folder / "store" / "models")
    one, two, three = image(CAT), image(COFFEE), image(PAGE, "PNG")
    notes = {"0001.txt": b"a caption", "._0001.jpg": b"\0" * 8}
    tars.write("a", {"x/0001.jpg": one, "x/0002.jpg": two} | notes)
    tars.write("b", {"0003.png": three, "0004.jpg": b"no image"})
    preview = plan_preview(tars.folder / "cliploom.yaml", [], RunOptions())
    assert preview["verdicts"]["looks"] == {"new": 3, "failed": 1}

    first = tars.run()
    found = vectors(tars.store)
    assert (first.counters["items_done"], set(found)) == (3, {"x/0001", "x/0002", "0003"})
    store = cliploom.open(tars.store)
    assert store.failures.select("uid", "stage").collect().rows() == [("0004", "probe")]
    assert store.search("a cat", top=1)[0].uid == "x/0001"
    assert Image.open(io.BytesIO(thumbnail(store, "x/0001"))).size == (160, 120)

    assert not tars.run().changed

    tars.write("a", {"x/renamed.jpg": one, "x/0002.jpg": image(ROCKET)})
    tars.write("c", {"0005.png": three})
    (tars.folder / "shards" / "b.tar").unlink()
    second = tars.run()
    again = vectors(tars.store)
    assert set(again) == {"x/renamed", "x/0002", "0005"}
    assert again["x/renamed"] == found["x/0001"]
    assert again["0005"] == found["0003"]
    assert again["x/0002"] != found["x/0002"]
    assert second.counters["recognized"] == 2
    assert second.counters["items_done"] == 1, "rows of renamed images are copied"
    assert cliploom.open(tars.store).failures.collect().height == 0

    whole = (tars.folder / "shards" / "c.tar").read_bytes()
    (tars.folder / "shards" / "c.tar").write_bytes(b"damaged" * 200)
    tars.run()
    assert set(vectors(tars.store)) == set(again), "rows of a tar that can't be listed are kept"
    (failure,) = cliploom.open(tars.store).failures.collect().to_dicts()
    assert (failure["stage"], failure["uid"]) == ("list", "c.tar")
    (tars.folder / "shards" / "c.tar").write_bytes(whole)
    assert tars.run().counters.get("items_done", 0) == 0
    assert cliploom.open(tars.store).failures.collect().height == 0


def listed(tars: Tars, **keys: Any) -> KnownListing:
    kind = source_kind("webdataset")
    node = kind.Node.model_validate({"kind": "webdataset", "glob": "shards/*.tar"} | keys)
    context: Any = ListContext("photos", tars.folder, None, lambda text: None)  # type: ignore[arg-type]
    return kind.list_items(node, context)


def test_hostile_members_are_failures_and_never_leave_the_folder(tars: Tars) -> None:
    tars.write("a", {"../out.jpg": b"1", "/abs/1.jpg": b"22", "large.jpg": b"333"})
    tars.write("links", {"link.jpg": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    found = listed(tars, max_bytes=2)
    assert found.items["uid"].to_list() == ["abs/1"]
    assert sorted(failure.uid for failure in found.failures) == ["../out.jpg", "large.jpg", "link.jpg"]
    assert list(tars.folder.parent.glob("**/out.jpg")) == []


def test_two_images_with_one_key_are_refused_by_name(tars: Tars) -> None:
    tars.write("a", {"1.jpg": image(CAT)})
    tars.write("b", {"1.png": image(PAGE, "PNG")})
    with pytest.raises(SpecError, match=r"sources\.photos: .*a\.tar::1\.jpg and .*b\.tar::1\.png have the same"):
        tars.run()


def parsed(**source: Any) -> Spec:
    return parse_document(SPEC | {"sources": {"photos": source}})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "webdatset", "glob": "*"}, r"photos\.kind: unknown 'webdatset'; did you mean 'webdataset'\?"),
        ({"kind": "webdataset"}, r"sources\.photos\.glob is missing; add 'glob' in sources\.photos\."),
        ({"kind": "webdataset", "globb": "*"}, r"sources\.photos\.globb: unknown key; did you mean 'glob'\?"),
        ({"kind": "webdataset", "glob": 3}, r"sources\.photos\.glob: 3 is wrong: must be a text"),
        ({"kind": 3}, r"sources\.photos\.kind: unknown '3'; known: labels, media"),
        ({"glob": "*"}, r"sources\.photos\.kind is missing"),
    ],
)
def test_wrong_options_name_their_place(package: Path, source: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parsed(**source)


def test_options_are_those_of_the_package(package: Path) -> None:
    node: Any = parsed(kind="webdataset", glob="*.tar", max_bytes=5).sources["photos"]
    assert (node.kind, node.max_bytes, node.content, node.own_vectors) == ("webdataset", 5, "media", False)
    assert "webdataset" in source_kinds()
    schema = spec_schema()
    mapping = schema["properties"]["sources"]["additionalProperties"]["discriminator"]["mapping"]
    described = schema["$defs"][mapping["webdataset"].removeprefix("#/$defs/")]
    assert (described["properties"]["kind"]["const"], described["required"]) == ("webdataset", ["kind", "glob"])
    with pytest.raises(SpecError, match=r"features\.looks\.sample is missing"):
        parse_document(SPEC | {"features": {"looks": {"source": "photos", "encoder": "lite0"}}})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Installs a module with one entry point: kind, code, name of the package."""

    def install(kind: str, code: str, name: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[cliploom.sources]\n{kind} = {name}:Kind\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    source_kind.cache_clear()


ODD = """
import polars as pl
from cliploom.sources import KnownListing, Listed, MediaItems, SourceNode, listed_frame
class Node(SourceNode):
    pass
class Kind(MediaItems):
    Node = Node
    def list_items(self, node, context):
        LISTING
"""


@pytest.mark.parametrize(
    ("kind", "listing", "message"),
    [
        ("odd_raises", "return 1 // 0", r"kind 'odd_raises' failed to list the items of sources\.s \(ZeroDiv"),
        ("odd_list", "return []", r"'odd_list' lists a list; list_items has to return a KnownListing"),
        ("odd_frame", "return KnownListing(pl.DataFrame({'uid': ['a']}))", r"no full column 'source' of type"),
        ("odd_name", "return KnownListing(listed_frame([Listed('x', 'a', 'u', 1, 's')]))", r"has to be 's'"),
        ("odd_exit", "raise SystemExit(3)", r"'odd_exit' failed to list the items of sources\.s \(SystemExit: 3\)"),
    ],
)
def test_a_kind_that_fails_is_named(installed: Any, tmp_path: Path, kind: str, listing: str, message: str) -> None:
    installed(kind, ODD.replace("LISTING", listing), f"package_{kind}")
    document = SPEC | {"store": str(tmp_path / "store"), "sources": {"s": {"kind": kind}}, "indexes": {}}
    document |= {"features": {"looks": {"source": "s", "encoder": "lite0", "sample": {"uniform": 1}}}}
    with pytest.raises(CliploomError, match=message):
        run_spec(parse_document(document), document, tmp_path, RunOptions(), lambda text: None)


def test_a_kind_without_a_node_is_refused(installed: Any) -> None:
    installed("nodeless", "class Kind: pass", "nodeless_one")
    with pytest.raises(CliploomError, match="'nodeless' has no class 'Node' that extends SourceNode"):
        parsed(kind="nodeless")
    with pytest.raises(CliploomError, match="'nodeless' of package 'nodeless_one' is not a class that extends SourceK"):
        source_kind("nodeless")


def test_a_kind_that_two_packages_offer_is_refused(installed: Any) -> None:
    installed("twofold", ODD, "first_source")
    installed("twofold", ODD, "second_source")
    with pytest.raises(CliploomError, match="'twofold' is offered by package 'first_source' and package 'second_sour"):
        parsed(kind="twofold")


def test_a_built_in_kind_can_not_be_replaced(installed: Any) -> None:
    installed("media", ODD.replace("LISTING", "pass"), "usurper_source")
    assert source_kind("media").__class__.__module__ == "cliploom.transforms.sources.media"
    assert parsed(kind="media", glob="*").sources["photos"].__class__.__name__ == "MediaSource"


def test_every_built_in_kind_has_a_class_for_its_node() -> None:
    for name, model in zip(BUILT_IN, BuiltIn.__args__, strict=True):  # type: ignore[attr-defined]
        kind = source_kind(name)
        assert kind.Node is model
        assert issubclass(model, SourceNode)
        assert isinstance(kind, SourceKind)


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="There is no source kind 'narations'; did you mean 'narrations'"):
        source_kind("narations")


def test_asking_for_kinds_loads_no_heavy_library() -> None:
    code = (
        "import sys; from cliploom.transforms.sources.registry import source_kind\n"
        f"for kind in {BUILT_IN!r}: source_kind(kind)\n"
        "print([m for m in ('apache_beam', 'openvino', 'av', 'polars', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_of_planning_probing_computing_or_publishing_names_a_kind() -> None:
    kinds = "|".join(BUILT_IN)
    named = re.compile(rf'kind\s*(==|!=|in|not in)\s*\(?"({kinds})"|\b(Media|Tfrecord|Narrations|Precomputed)Source\b')
    for folder in ("pipelines/planning", "pipelines/running", "transforms/work", "transforms/publish"):
        for path in (ROOT / folder).glob("*.py"):
            assert named.search(path.read_text(encoding="utf-8")) is None, path


VECTORS = """
import numpy as np
from typing import ClassVar
from cliploom.sources import KnownListing, Listed, SourceNode, VectorItems, VectorRows, find, listed_frame, uid_of
class Node(SourceNode):
    content: ClassVar = "vectors"
    glob: str
    odd: bool = False
class Kind(VectorItems):
    Node = Node
    REVISION = 1
    def list_items(self, node, context):
        files = find(node.glob, context.base, context.place)
        items = [Listed(context.name, uid_of(f.relative, "path", ""), f.uri, f.size, f.signature) for f in files]
        return KnownListing(listed_frame(items))
    def count_rows(self, uri, path):
        return 1 // (path.stem != "zero")
    def values(self, node, feature):
        return super().values(node, feature) | ({"odd": {1, 2}} if node.odd else {})
    def outputs(self, node):
        return {"v": 3}
    def vectors(self, uri, path, settings):
        if path.stem == "exit":
            raise SystemExit(3)
        found = np.loadtxt(path, ndmin=2)
        return VectorRows({"v": found[:, 1:]}, start_s=found[:, 0], end_s=found[:, 0] + 1)
"""


def test_a_kind_may_bring_vectors(installed: Any, tmp_path: Path) -> None:
    installed("vectors_of_text", VECTORS, "vectors_of_text")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "good.txt").write_text("0 1 2 3\n1 4 5 6\n")
    (tmp_path / "rows" / "same.txt").write_text("0 1 2 3\n1 4 5 6\n")
    (tmp_path / "rows" / "short.txt").write_text("0 1 2\n")
    (tmp_path / "rows" / "huge.txt").write_text("0 1 2 1e39\n")
    (tmp_path / "rows" / "exit.txt").write_text("0 1 2 3\n5 5 5 5\n")
    (tmp_path / "rows" / "zero.txt").write_text("0 1 2 3\n6 6 6 6\n")
    document: dict[str, Any] = {
        "version": 1,
        "name": "vectors",
        "store": "./store",
        "sources": {"given": {"kind": "vectors_of_text", "glob": "rows/*.txt"}},
        "features": {"given": {"source": "given"}},
        "indexes": {"given": {"feature": "given", "metric": "l2", "kind": "flat"}},
        "limits": {"max_failed_first": "100%"},
    }

    def run() -> RunResult:
        return run_spec(parse_document(document), document, tmp_path, RunOptions(), lambda text: None)

    first = run()
    store = cliploom.open(tmp_path / "store")
    rows = store.table("given").sort("uid", "start_s").select("uid", "start_s", "end_s", "frame", "v").collect().rows()
    assert rows == [
        (uid, start, start + 1, None, vector)
        for uid in ("good", "same")
        for start, vector in ((0.0, [1.0, 2.0, 3.0]), (1.0, [4.0, 5.0, 6.0]))
    ]
    failures = dict(store.failures.select("uid", "message").collect().rows())
    assert set(failures) == {"short", "huge", "exit", "zero"}
    assert "tried to end the program (exit code 3)" in failures["exit"]
    assert "ZeroDivisionError" in failures["zero"]
    assert "'v' is float64 [1, 2]; floats [rows, 3] are wanted" in failures["short"]
    assert "not finite in float32" in failures["huge"]
    assert store.search(vector=[4.0, 5.0, 6.0], top=1)[0].start_s == 1.0
    assert not run().changed
    source_kind("vectors_of_text").__class__.REVISION = 2
    again = run()
    assert (again.changed, again.verdicts["given"]["config_changed"]) == (True, 5)
    assert again.release.features["given"].config != first.release.features["given"].config
    with pytest.raises(SpecError, match=r"features\.given\.encoder: source 'given' brings vectors of its own"):
        parse_document(
            document | {"features": {"given": {"source": "given", "encoder": "lite0"}}, "encoders": ENCODERS}
        )
    document["sources"]["given"]["odd"] = True
    with pytest.raises(CliploomError, match=r"'vectors_of_text' failed to describe feature given \(TypeError: .*set"):
        run()
    document["features"] = {"given": {"source": "given", "outputs": ["w"]}}
    with pytest.raises(SpecError, match=r"features\.given\.outputs: source 'given' has no output 'w'; known: v"):
        run()


ENCODERS = SPEC["encoders"]
TEXTS = """
from typing import ClassVar
from cliploom.sources import SourceNode, SpooledText, TextItem, TextItems, find, spool_texts
class Node(SourceNode):
    content: ClassVar = "texts"
    about_media: ClassVar = True
    glob: str
class Kind(TextItems):
    Node = Node
    def list_items(self, node, context):
        files = find(node.glob, context.base, context.place)
        lines = {file.relative[:-4]: open(file.uri.removeprefix("file://")).read().splitlines() for file in files}
        items = [TextItem(uid, uid, [SpooledText(line, float(n)) for n, line in enumerate(own)])
                 for uid, own in lines.items()]
        return spool_texts(context.name, items, context.objects)
"""


def test_a_kind_may_bring_texts(installed: Any, tmp_path: Path, built_store: SmallStore) -> None:
    installed("texts_of_lines", TEXTS, "texts_of_lines")
    copytree(built_store.store / "models", tmp_path / "store" / "models")
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "one.txt").write_text("a cat sleeps\na rocket starts\n")
    (tmp_path / "said" / "two.txt").write_text("someone drinks coffee\n")
    (tmp_path / "said" / "none.txt").write_text("")
    document: dict[str, Any] = {
        "version": 1,
        "name": "texts",
        "store": "./store",
        "sources": {"said": {"kind": "texts_of_lines", "glob": "said/*.txt"}},
        "encoders": {"minilm": {"kind": "minilm"}},
        "features": {"said": {"source": "said", "encoder": "minilm"}},
        "indexes": {"said": {"feature": "said", "kind": "flat"}},
        "limits": {"max_deleted": "100%"},
    }

    def run() -> RunResult:
        return run_spec(parse_document(document), document, tmp_path, RunOptions(), lambda text: None)

    run()
    hit = cliploom.open(tmp_path / "store").search("a drink", top=1)[0]
    assert (hit.uid, hit.text, hit.start_s) == ("two", "someone drinks coffee", 0.0)
    assert not run().changed
    (tmp_path / "said" / "one.txt").rename(tmp_path / "said" / "renamed.txt")
    (tmp_path / "said" / "two.txt").write_text("someone drinks coffee\na cup breaks\n")
    second = run()
    assert second.verdicts["said"] == {"content_changed": 1, "moved": 1}
    texts = cliploom.open(tmp_path / "store").table("narrations").select("uid", "text").collect().rows()
    assert sorted(texts) == [
        ("renamed", "a cat sleeps"),
        ("renamed", "a rocket starts"),
        ("two", "a cup breaks"),
        ("two", "someone drinks coffee"),
    ]
    assert is_about_media("texts_of_lines")
    assert is_about_media("narrations")
    assert not is_about_media("labels")
    assert not is_about_media("nobody offers this")


def test_the_page_shows_the_example_as_it_is() -> None:
    page = (ROOT / "docs" / "sources.md").read_text()
    code = (EXAMPLE / "cliploom_webdataset" / "__init__.py").read_text()
    assert code[code.index("SUFFIXES = ") :].rstrip() in page

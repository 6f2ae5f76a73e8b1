"""Wrong options, paths, stores and queries: one sentence each, with the value, the fix and the right exit code."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import SPEC, Command, assert_one_sentence, command, python_without_override
from stores import SmallStore

from cliploom.schemas.release import STORE_FORMAT, Release
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import append_release


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a spec, a plain file and some folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cliploom.yaml").write_text(SPEC)
    (tmp_path / "hello.txt").write_text("hello\n")
    (tmp_path / "uris.csv").write_text("url,uid\nx.mp4,x\n")
    (tmp_path / "blank.csv").write_text("uri,uid\n,x\n")
    (tmp_path / "twice.csv").write_text("uri,uid\na.mp4,x\nb.mp4,x\n")
    (tmp_path / "broken.parquet").write_text("PAR1 and no more")
    for name in ("empty", "media", "full"):
        (tmp_path / name).mkdir()
    for folder in ("begun", "parent/store"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "lock").touch()
    (tmp_path / "full" / "notes.txt").write_text("hello\n")
    (tmp_path / "media" / "a.mp4").write_text("hello\n")
    return tmp_path


# command -> exit code, what the sentence must say
ARGUMENTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "runn": (2, ("no command 'runn'; did you mean 'run'?",)),
    "xyz": (2, ("no command 'xyz'; known: attach, compact, compare, completion, demo,",)),
    "--verbose": (2, ("no option --verbose", "--version")),
    "run cliploom.yaml --limt 3": (2, ("no option --limt; did you mean '--limit'?",)),
    "run cliploom.yaml --limit 0": (2, ("--limit: '0' is wrong", "greater than or equal to 1")),
    "run cliploom.yaml --limit=x": (2, ("--limit: 'x' is wrong", "valid integer")),
    "run cliploom.yaml --limit": (2, ("'--limit' requires an argument", "--help")),
    "run cliploom.yaml more": (2, ("'more' is one argument too many", "`cliploom run --help`")),
    "run cliploom.yaml --target flnk": (2, ("no target 'flnk'; the spec has local",)),
    "run cliploom.yaml -- --no_such_option=3": (2, ("Beam has no option '--no_such_option'",)),
    "run cliploom.yaml -- fast": (2, ("Beam option 'fast' does not begin with --", "--name=value")),
    "run nowhere.yaml": (2, ("no spec file 'nowhere.yaml'", "cliploom init FOLDER")),
    "run hello.txt": (2, ("hello.txt must be a mapping with version, name, store", "'hello'")),
    "plan nowhere.yaml": (2, ("no spec file 'nowhere.yaml'",)),
    "validate nowhere.yaml": (2, ("no spec file 'nowhere.yaml'",)),
    "validate cliploom.yaml --json=3": (2, ("'--json' does not take a value", "--help")),
    "graph nowhere.yaml": (2, ("no spec file 'nowhere.yaml'",)),
    "compact nowhere.yaml": (2, ("no spec file 'nowhere.yaml'",)),
    "schema --markdow": (2, ("no option --markdow; did you mean '--markdown'?",)),
    "init": (2, ("The argument FOLDER is missing",)),
    "init nowhere": (2, ("'nowhere' is not there; name the folder that holds the media",)),
    "init hello.txt": (2, ("'hello.txt' is a file; name the folder that holds the media",)),
    "init empty --spec new.yaml": (2, ("'empty' holds no videos, GIFs or images", "name the folder")),
    "init media": (2, ("cliploom.yaml is there already", "--spec", "--force")),
    "init media --spec nowhere/x.yaml": (2, ("nowhere/x.yaml can't be written", "--spec")),
    "init media --spec empty --force": (2, ("empty can't be written", "--spec")),
    "demo hello.txt": (2, ("'hello.txt' is a file; name a folder for the demo",)),
    "demo full": (2, ("'full' is not empty (it has 'notes.txt'); choose a new one",)),
    "demo hello.txt/x": (2, ("'hello.txt/x' can't be made", "name another")),
    "releases": (4, ("There is no store at", "store; `cliploom run SPEC` makes one")),
    "releases nowhere": (4, ("There is no store at", "nowhere; `cliploom run SPEC` makes one")),
    "releases hello.txt": (4, ("hello.txt is a file; name the store's folder, or its spec",)),
    "releases ftp://host/x": (2, ("'ftp://host/x'", "use a folder, s3:// or gs://")),
    "failures nowhere": (4, ("There is no store at",)),
    "failures empty": (4, ("empty is not a store; `cliploom run SPEC` makes one",)),
    "failures parent": (4, ("parent is not a store; name the store inside it", "parent/store")),
    "verify nowhere": (4, ("There is no store at",)),
    "verify hello.txt": (4, ("hello.txt", "store")),
    "vacuum nowhere": (4, ("There is no store at",)),
    "vacuum empty --keep-releases 0": (2, ("--keep-releases: '0' is wrong",)),
    "rollback empty 1": (4, ("empty is not a store",)),
    "rollback empty x": (2, ("RELEASE: 'x' is wrong", "valid integer")),
    "rollback nowhere 1": (4, ("There is no store at",)),
    "publish nowhere": (4, ("There is no store at",)),
    "publish empty": (4, ("empty is not a store",)),
    "publish begun": (4, ("has no plan to go on from; use `cliploom run SPEC`",)),
    "releases empty": (4, ("empty is not a store",)),
    "run empty": (2, ("'empty' is a folder without cliploom.yaml", "`cliploom init empty`")),
    "run begun": (2, ("'begun' is a store", "`cliploom run SPEC`")),
    "failures begun": (4, ("no release yet; `cliploom run SPEC` makes the first one",)),
    "search nowhere cat": (4, ("There is no store at",)),
    "search empty cat": (4, ("empty is not a store",)),
    "search begun cat": (4, ("no release yet",)),
    "search hello.txt cat": (4, ("hello.txt",)),
}

# values of the source or the store -> exit code, what `plan` must say
PLANS: dict[str, tuple[dict[str, Any], int, tuple[str, ...]]] = {
    "folder missing": ({"glob": "nowhere/*.mp4"}, 2, ("sources.clips.glob: there is no folder", "nowhere/*.mp4")),
    "file missing": ({"glob": "nowhere.mp4"}, 2, ("sources.clips.glob: there is no file", "nowhere.mp4")),
    "nothing found": ({"glob": "empty/*.mp4"}, 2, ("hold no files (clips)", "check their glob or table")),
    "glob by ftp": ({"glob": "ftp://host/*.mp4"}, 2, ("'ftp://host'", "s3://")),
    "table missing": ({"table": "no.csv"}, 2, ("sources.clips.table: there is no table", "no.csv")),
    "table of no kind": ({"table": "hello.txt"}, 2, ("'hello.txt' is not a table", ".csv, .parquet or .jsonl")),
    "table without uris": ({"table": "uris.csv"}, 2, ("no column 'uri'; it has url, uid",)),
    "table with a blank uri": ({"table": "blank.csv"}, 2, ("row 1 of", "has no uri")),
    "table with one uid twice": ({"table": "twice.csv"}, 2, ("a.mp4", "b.mp4", "same uid 'x'; rename one")),
    "table damaged": ({"table": "broken.parquet"}, 2, ("broken.parquet can't be read",)),
    "uid rule that fails": (
        {"glob": "media/*.mp4", "uid": {"regex": "^x(.)"}},
        2,
        ("sources.clips.uid: '^x(.)' does not match 'a.mp4'",),
    ),
    "store is a file": ({"glob": "media/*.mp4", "store": "hello.txt"}, 4, ("a file exists where the store needs",)),
    "store below a file": ({"glob": "media/*.mp4", "store": "hello.txt/x"}, 4, ("a file exists where",)),
}

# arguments after the store -> exit code, what the sentence must say
QUERIES: dict[tuple[str, ...], tuple[int, tuple[str, ...]]] = {
    (): (2, ("Search by a text or by --like", "neither is given")),
    ("",): (2, ("text to search for is empty ('')", "a few words")),
    (" \t",): (2, ("text to search for is empty", "a few words")),
    ("cat", "--like", "page", "--index", "graph"): (2, ("'graph' is over 'pooled'", "without text queries")),
    ("cat", "--where", "yeer > 2020"): (2, ("There is no column 'yeer' to filter by", "known: duration")),
    ("cat", "--where", "uid = cat"): (2, ("in place of 'cat'", "label = 'cat'")),
    ("cat", "--in", "videos/cta"): (2, ("has no item 'videos/cta'; did you mean 'videos/cat'?",)),
    ("cat", "--group", "plce"): (2, ("There is no column 'plce' to group by",)),
    ("cat", "--facet", "plce"): (2, ("There is no column 'plce' to count",)),
    ("cat", "--weight", "2", "--weight", "1"): (2, ("2 weights are given for 1 parts",)),
    ("cat", "--not", "cat"): (2, ("cancel each other out",)),
    ("--not", "cat"): (2, ("only has negative parts",)),
    ("--query", "{"): (2, ("can't be read as JSON",)),
    ("--query", "@nowhere.json"): (2, ("can't be read as JSON", "nowhere.json")),
    ("--query", '{"parts": [{"kind": "text", "value": "a"}], "wher": "x"}'): (2, ("did you mean 'where'?",)),
    ("cat", "dog"): (2, ("'dog' is one argument too many",)),
    ("cat", "--index", "framez"): (2, ("no index 'framez'; did you mean 'frames'?",)),
    ("cat", "--index", "graph"): (
        2,
        ("'graph' is over 'pooled'", "without text queries", "ask the index frames or lists"),
    ),
    ("cat", "--top", "0"): (2, ("--top: '0' is wrong",)),
    ("cat", "--rank", "maxx"): (2, ("no ranker 'maxx'; did you mean 'max'?",)),
    ("cat", "--release", "7"): (4, ("no release 7; the store has 1 to 1",)),
    ("cat", "--limit", "3"): (2, ("no option --limit",)),
    ("--like", ""): (2, ("is empty ('')",)),
    ("--like", "videos/cta"): (2, ("'videos/cta' is neither a file nor a uid", "did you mean 'videos/cat'?")),
    ("--like", "nowhere.mp4"): (2, ("'nowhere.mp4' is neither a file nor a uid", "known: both,")),
    ("--like", "videos/cat@xs"): (2, ("'xs' is not a time", "UID@12.5s")),
    ("--like", "videos/cat@-1s"): (2, ("'-1s' is not a time", "UID@12.5s")),
    ("--like", "videos/cat@nan"): (2, ("'nan' is not a time", "UID@12.5s")),
    ("--like", "videos/cat@99s"): (2, ("no row at 99 s", "0 to 3 s")),
    ("--like", "hello.txt"): (2, ("'hello.txt' can't be used as a query", "has no video: it is text")),
    ("--like", "noise"): (2, ("'noise'",)),
}


def edited(values: dict[str, Any]) -> str:
    document = copy.deepcopy(yaml.safe_load(SPEC))
    document["store"] = values.get("store", document["store"])
    document["sources"]["clips"] = {"kind": "media"} | {key: values[key] for key in values if key != "store"}
    return yaml.safe_dump(document)


def damage_log(store: Path) -> None:
    log = store / "releases" / "_delta_log" / "00000000000000000000.json"
    log.write_bytes(log.read_bytes()[:100])


def drop_rows(store: Path) -> None:
    for file in (store / "releases").glob("*.parquet"):
        file.unlink()


def garble_rows(store: Path) -> None:
    for file in (store / "releases").glob("*.parquet"):
        file.write_bytes(b"PAR1" + bytes(200) + b"PAR1")


def garble_failures(store: Path) -> None:
    shutil.rmtree(store / "failures")


def files_of(here: Path) -> list[Path]:
    """What is below a folder, but for the store and its lock."""
    return sorted(path for path in here.rglob("*") if "store" not in path.name and path.name != "lock")


@pytest.mark.parametrize("line", ARGUMENTS)
def test_wrong_arguments_and_paths(line: str, cliploom: Command, here: Path) -> None:
    code, said = ARGUMENTS[line]
    before = files_of(here)
    assert_one_sentence(cliploom(*line.split()), code, said)
    assert files_of(here) == before


@pytest.mark.parametrize("case", PLANS)
def test_wrong_places_in_a_spec(case: str, cliploom: Command, here: Path) -> None:
    values, code, said = PLANS[case]
    (here / "cliploom.yaml").write_text(edited(values))
    assert_one_sentence(cliploom("plan", "cliploom.yaml"), code, said)


@pytest.mark.parametrize("query", QUERIES)
def test_wrong_queries(query: tuple[str, ...], cliploom: Command, here: Path, built_store: SmallStore) -> None:
    code, said = QUERIES[query]
    assert_one_sentence(cliploom("search", built_store.store, *query), code, said)


@pytest.mark.parametrize("name", ["releases", "failures", "verify", "search"])
@pytest.mark.parametrize("damage", [damage_log, drop_rows, garble_rows])
def test_damaged_releases_are_reported(
    name: str, damage: Callable[[Path], None], cliploom: Command, small_store: SmallStore
) -> None:
    damage(small_store.store)
    ended = cliploom(name, small_store.store, *(["cat"] if name == "search" else []))
    assert ended.code == 4
    assert "releases" in ended.err + ended.out
    assert "Traceback" not in ended.err
    assert "internal error" not in ended.err


def test_missing_failures_table_is_reported(cliploom: Command, small_store: SmallStore) -> None:
    garble_failures(small_store.store)
    assert_one_sentence(cliploom("failures", small_store.store), 4, ("failures can't be read", "cliploom verify"))


def test_index_that_is_gone_is_reported(cliploom: Command, small_store: SmallStore) -> None:
    shutil.rmtree(small_store.store / "index")
    assert_one_sentence(cliploom("search", small_store.store, "cat"), 4, ("index/", "cliploom"))


@pytest.mark.parametrize("name", ["releases", "failures", "verify", "vacuum", "search"])
def test_stores_of_newer_programs_are_refused(name: str, cliploom: Command, tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path / "store")
    newer = Release(
        release=1,
        run="r",
        created_at=datetime.now(UTC),
        program="9",
        spec={},
        tables={},
        format=STORE_FORMAT + 1,
    )
    append_release(objects, newer, -1)
    ended = cliploom(name, objects.uri, *(["cat"] if name == "search" else []))
    assert_one_sentence(ended, 4, (f"has format {STORE_FORMAT + 1}", "upgrade cliploom"))


@pytest.mark.parametrize(
    "line", ["releases {store}", "failures {store}", "search {store} cat", "plan {spec}", "vacuum {store}"]
)
def test_store_without_rights_is_reported(line: str, small_store: SmallStore) -> None:
    small_store.store.chmod(0o000)
    arguments = line.format(store=small_store.store, spec=small_store.spec).split()
    ended = python_without_override("-m", "cliploom", *arguments)
    small_store.store.chmod(0o700)
    assert_one_sentence(ended, 4, (str(small_store.store), "no permission; check the rights"))


def test_spec_without_rights_is_reported(here: Path) -> None:
    (here / "cliploom.yaml").chmod(0o000)
    ended = python_without_override("-m", "cliploom", "validate", here / "cliploom.yaml")
    assert_one_sentence(ended, 2, ("SPEC: ", "cliploom.yaml' is not readable", "see `cliploom validate --help`"))


def test_folder_that_can_not_be_listed_is_reported(here: Path) -> None:
    (here / "media").chmod(0o000)
    ended = python_without_override("-m", "cliploom", "plan", here / "cliploom.yaml")
    (here / "media").chmod(0o700)
    assert_one_sentence(ended, 1, ("media' can't be listed: Permission denied; check its permissions",))


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("s3://", "'s3://' names no bucket; write s3://bucket/prefix"),
        ("s3:/bucket", "'s3:/bucket' names no bucket"),
        ("gs:///x", "names no bucket; write gs://bucket/prefix"),
    ],
)
def test_addresses_of_no_bucket_are_reported_at_once(store: str, said: str, cliploom: Command, here: Path) -> None:
    assert_one_sentence(cliploom("releases", store), 2, (said,))
    (here / "cliploom.yaml").write_text(edited({"glob": "media/*.mp4", "store": store}))
    assert_one_sentence(cliploom("plan", "cliploom.yaml"), 2, (said,))
    assert not list(here.glob("[sg][3s]:*"))


def test_arguments_are_not_offered_as_options(cliploom: Command, here: Path) -> None:
    ended = cliploom("graph", "cliploom.yaml", "--json")
    assert_one_sentence(ended, 2, ("There is no option --json; known: --help, --set.",))

"""Commands that name no spec or no store, or one in place of the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Command, assert_one_sentence, command
from stores import SmallStore


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


@pytest.fixture
def project(built_store: SmallStore, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    """The small store, whose folder is the current one."""
    monkeypatch.chdir(built_store.folder)
    return built_store


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["run"], ("No spec is named", "no cliploom.yaml", "`cliploom run SPEC`", "`cliploom init FOLDER`")),
        (["plan"], ("No spec is named", "`cliploom plan SPEC`")),
        (["failures"], ("No store is named", "`cliploom failures STORE`")),
        (["search", "a cat"], ("No store is named", "`cliploom search STORE 'a cat'`")),
        (["search", "--like", "a.jpg"], ("No store is named", "`cliploom search STORE --like FILE`")),
    ],
)
def test_what_was_forgotten_is_named(
    line: list[str], said: tuple[str, ...], cliploom: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(cliploom(*line), 2, said)


def test_bare_commands_take_the_spec_here_and_its_store(cliploom: Command, project: SmallStore) -> None:
    assert cliploom("validate").out.startswith("cliploom.yaml is valid")
    assert [row["release"] for row in json.loads(cliploom("releases", "--json").out)] == [1]
    assert "NoVideo" in cliploom("failures").out
    assert json.loads(cliploom("inspect", "--json").out)["kind"] == "store"
    assert json.loads(cliploom("report", "--json").out) == json.loads(cliploom("report", "store", "--json").out)
    hits = json.loads(cliploom("search", "a cat", "--top", "1", "--json").out)
    assert json.loads(cliploom("search", "--like", "videos/cat", "--top", "1", "--json").out)
    assert hits == json.loads(cliploom("search", "store", "a cat", "--top", "1", "--json").out)


def test_a_number_alone_is_a_release_of_the_store_here(
    cliploom: Command, small_store: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_store.folder)
    assert_one_sentence(cliploom("rollback"), 2, ("RELEASE is missing", "`cliploom releases`"))
    assert_one_sentence(cliploom("rollback", "7"), 4, ("no release 7",))
    assert_one_sentence(cliploom("rollback", "1"), 4, ("Release 1 is the newest already",))


def test_words_that_name_a_folder_are_words(
    cliploom: Command, small_store: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_store.folder)
    (small_store.folder / "cats").mkdir()
    assert json.loads(cliploom("search", "cats", "--top", "1", "--json").out)


def test_a_spec_stands_for_its_store_and_a_folder_for_its_spec(
    cliploom: Command, built_store: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    by_spec = cliploom("search", built_store.spec, "a cat", "--json")
    assert by_spec.out == cliploom("search", built_store.store, "a cat", "--json").out
    for named in (built_store.folder, built_store.store):
        assert cliploom("graph", named).out == cliploom("graph", built_store.spec).out


def test_the_folder_around_a_store_points_to_it(cliploom: Command, built_store: SmallStore) -> None:
    said = (f"{built_store.folder} is not a store; name the store inside it, {built_store.store}.",)
    assert_one_sentence(cliploom("releases", built_store.folder), 4, said)

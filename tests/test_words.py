"""Keyword search: narrations, captions and labels by BM25, phrases, merged lists, deletion of texts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest
from commands import Command, assert_one_sentence, command
from stores import SmallStore

from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.index.postings import bm25, counts_of, words_of, write_postings
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.upkeep.vacuuming import vacuum_store
from cliploom.transforms.upkeep.verifying import verify_release

SPEC = """\
version: 1
name: said
store: ./store
sources: {said: {kind: narrations, format: csv, path: said.csv}}
encoders: {minilm: {kind: minilm}}
features: {speech: {source: said, encoder: minilm}}
indexes: {speech: {feature: speech}}
limits: {max_deleted: 100%}
"""
SAID = """\
uid,start_s,text
kitchen,0.0,the woman cuts a red onion
kitchen,4.5,she puts the onion into the pan
street,1.0,a red fire engine stands at the fire station
street,7.25,an engine is on fire
garden,2.0,the man waters 猫 flowers; ÉCLAIR
"""


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


def run(folder: Path, said: str = SAID) -> str:
    (folder / "said.csv").write_text(said, encoding="utf-8")
    (folder / "cliploom.yaml").write_text(SPEC, encoding="utf-8")
    document = load_document(folder / "cliploom.yaml")
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None)
    return str(folder / "store")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of five narrations of three videos."""
    return run(tmp_path_factory.mktemp("said"))


def found(store: str, text: str, **options: object) -> list[tuple[str, float | None]]:
    return [(hit.uid, hit.start_s) for hit in open_store(store).search(text, mode="words", **options)]  # type: ignore[arg-type]


def test_texts_with_the_words_are_found_at_their_moments(said: str) -> None:
    assert found(said, "onion pan") == [("kitchen", 4.5)]
    assert found(said, "RED") == [("kitchen", 0.0), ("street", 1.0)]
    assert found(said, "éclair") == found(said, "猫") == [("garden", 2.0)]
    assert found(said, "submarine") == []
    hit = open_store(said).search("flowers", mode="words")[0]
    assert (hit.index, hit.text, hit.source) == ("words", "the man waters 猫 flowers; ÉCLAIR", "said")


def test_phrases_must_stand_unbroken(said: str) -> None:
    assert found(said, '"fire engine"') == [("street", 1.0)]
    assert found(said, '"engine fire"') == []
    assert found(said, 'onion "red fire"') == [("street", 1.0)]


def test_scores_are_those_of_the_formula(said: str) -> None:
    texts = [line.split(",", 2)[2] for line in SAID.splitlines()[1:]]
    lengths = [len(words_of(text)) for text in texts]
    # "engine" is once in two of five texts; the shorter one scores higher.
    idf = math.log(1 + (5 - 2 + 0.5) / (2 + 0.5))
    expected = idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * lengths[3] / (sum(lengths) / 5)))
    hit = open_store(said).search("engine", mode="words")[0]
    assert (hit.uid, hit.start_s, hit.score) == ("street", 7.25, pytest.approx(expected))


def test_both_lists_are_merged_by_their_places(said: str) -> None:
    store = open_store(said)
    hits = store.search("a red onion", mode="both")
    assert (hits[0].uid, hits[0].score) == ("kitchen", pytest.approx(2 / 61))
    assert {hit.uid for hit in hits} == {"kitchen", "street", "garden"}
    assert store.search("a red onion")[0].score < 1.01


def test_vectors_alone_are_the_default(said: str) -> None:
    store = open_store(said)
    assert store.search("a red onion") == store.search("a red onion", mode="vectors")


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ({"text": "a", "mode": "letters"}, "There is no mode 'letters'"),
        ({"like": "kitchen", "mode": "words"}, "give a text"),
        ({"text": "?!", "mode": "words"}, r"has no word \('\?!'\)"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(said: str, question: dict[str, object], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        open_store(said).search(**question)  # type: ignore[arg-type]


def test_a_store_without_texts_says_so(built_store: SmallStore, cliploom: Command) -> None:
    ended = cliploom("search", built_store.store, "a cat", "--mode", "words")
    assert_one_sentence(ended, 2, ("Release 1 has no words to search",))
    store = open_store(str(built_store.store))
    assert store.search("a cat", mode="both") == store.search("a cat")


def test_the_command_line_searches_words(said: str, cliploom: Command) -> None:
    rows = json.loads(cliploom("search", said, '"fire engine"', "--mode", "words", "--json").out)
    assert [(row["uid"], row["start_s"]) for row in rows] == [("street", 1.0)]


def test_a_deleted_text_is_in_no_file_and_the_rest_is_found(tmp_path: Path) -> None:
    store = run(tmp_path)
    run(tmp_path, SAID.replace("the woman cuts a red onion", "the woman sings"))
    assert found(store, "cuts") == []
    assert found(store, "sings") == [("kitchen", 0.0)]
    assert [hit.uid for hit in open_store(store, 1).search("cuts", mode="words")] == ["kitchen"]
    vacuum_store(store, 1)
    assert verify_release(store) == []
    named = [Path(store) / shard.file.path for shard in open_store(store).release.words]
    words = {word for path in named for word in pl.read_parquet(path)["word"]}
    assert "sings" in words
    assert "cuts" not in words


def test_captions_and_labels_of_items_are_words_of_theirs(small_store: SmallStore) -> None:
    rows = {
        "uri": ["media/videos/cat.mp4", "media/page.png"],
        "uid": ["c", "p"],
        "caption": ["an orange animal", "a printed page"],
    }
    pl.DataFrame(rows).write_csv(small_store.folder / "list.csv")
    small_store.run(["sources.clips={kind: media, table: list.csv}"])
    assert found(str(small_store.store), "animals orange") == [("c", None)]
    assert found(str(small_store.store), '"printed page"') == [("p", None)]


def test_shards_count_their_documents_and_words(tmp_path: Path) -> None:
    documents = pl.DataFrame({"doc": [1, 2, 3], "text": ["a b a", "", "b"]})
    write_postings(documents, tmp_path / "terms.parquet")
    assert counts_of(tmp_path / "terms.parquet") == (2, 4)
    rows = pl.read_parquet(tmp_path / "terms.parquet").rows()
    assert rows == [("a", 1, 2, 3), ("b", 1, 1, 3), ("b", 3, 1, 1)]
    assert bm25(pl.read_parquet(tmp_path / "terms.parquet"), 2, 4)["doc"].to_list() == [1, 3]

"""Word vectors: the files as they are published, phrases, unknown words, and searching by a word."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import command
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.pipelines.demo.corpus import CAT, COFFEE, ROCKET
from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.base import EncodeReport
from cliploom.transforms.encoders.lite0 import class_names, class_vectors
from cliploom.transforms.encoders.prepare import model_digest, prepare_model, prepared_text
from cliploom.transforms.encoders.word_table import WordTable, write_table
from cliploom.transforms.encoders.word_vectors import UnknownWordsWarning, names_of

# A blank ends some lines, 0xe9 is no UTF-8, a word stands there twice, one has capital letters.
FASTTEXT = (
    b"8 3\n"
    b"cat 1 0 0 \n"
    b"dog 0 1 0\n"
    b"tiger-shark 0 0 1 \n"
    b"caf\xe9 .5 .5 -1e-1 \n"
    b"shark 0.25 0 2\n"
    b"Paris 3 3 3 \n"
    b"gr\xc3\xb6\xc3\x9fe -1 0 0\n"
    b"cat 9 9 9 \n"
)


SPEC = """\
version: 1
name: words
store: ./store
sources:
  photos: {kind: media, glob: "media/*.png", uid: stem}
encoders:
  words: {kind: word_vectors, model: words.vec}
  lite0: {kind: efficientnet_lite0, text_encoder: words}
features:
  frames: {source: photos, sample: {every: 1s}, encoder: lite0, outputs: [semantic]}
indexes:
  frames: {feature: frames, output: semantic, metric: cosine, kind: flat}
"""


def options(path: Path) -> Any:
    return registry.family("word_vectors").Options.model_validate({"model": str(path)})


def prepared(tmp_path: Path, content: bytes = FASTTEXT, name: str = "words.vec") -> tuple[Path, Any]:
    (tmp_path / name).write_bytes(content)
    return prepare_model("word_vectors", options(tmp_path / name), tmp_path / "models")


def vectors(folder: Path, *phrases: str) -> list[list[float]]:
    found: list[list[float]] = registry.load_text_tower(folder)(list(phrases)).tolist()
    return found


def test_fasttext_with_blanks_at_the_end_and_broken_utf8_is_read(tmp_path: Path) -> None:
    folder, card = prepared(tmp_path)
    assert card.outputs["embedding"].dim == 3
    wanted = [[1, 0, 0], [0.5, 0.5, -0.1], [-1, 0, 0], [3, 3, 3]]
    np.testing.assert_allclose(vectors(folder, "cat", "caf", "größe", "Paris"), wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["glove.txt", "glove.txt.gz"])
def test_glove_has_no_first_line_and_words_with_blanks(tmp_path: Path, name: str) -> None:
    content = b"the 0.1 0.2\n. . . 0.3 0.4\nname@domain.com 0.5 -0.6\n"
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith("gz") else content)
    assert write_table(tmp_path / name, tmp_path) == 2
    table = WordTable(tmp_path)
    assert len(table) == 3
    found = table.vector(". . .")
    assert found is not None
    np.testing.assert_allclose(found, [0.3, 0.4], atol=1e-7)
    assert table.vector("...") is None


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n \0"), min_size=1), st.floats(-9, 9, width=32)
    )
)
def test_every_word_is_found_with_its_own_vector(
    tmp_path_factory: pytest.TempPathFactory, words: dict[str, float]
) -> None:
    folder = tmp_path_factory.mktemp("words")
    lines = [f"{word} {value!r} 1.5\n" for word, value in words.items()]
    (folder / "words.vec").write_text(f"{len(words)} 2\n{''.join(lines)}", encoding="utf-8")
    if not words:
        with pytest.raises(CliploomError, match="holds no words"):
            write_table(folder / "words.vec", folder)
        return
    write_table(folder / "words.vec", folder)
    table = WordTable(folder)
    assert len(table) == len(words)
    for word, value in words.items():
        found = table.vector(word)
        assert found is not None
        np.testing.assert_allclose(found, [value, 1.5], rtol=1e-6)
    assert table.vector("not \n there") is None


def test_a_phrase_is_the_mean_of_its_known_words(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    warnings.simplefilter("ignore", UnknownWordsWarning)
    assert vectors(folder, "Cat dog", "dog and CAT!") == [[0.5, 0.5, 0], [0.5, 0.5, 0]]


def test_names_of_a_class_are_joined_by_hyphens_and_the_unknown_ones_left_out(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert vectors(folder, "tiger shark, Galeocerdo cuvieri", "tiger shark, cat") == [[0, 0, 1], [0.5, 0, 0.5]]


def test_words_that_are_not_known_are_said_with_the_nearest(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    with pytest.warns(
        UnknownWordsWarning, match=r"a part of 'cat sharkk' has vectors: 'sharkk' is not known \(near: shark"
    ):
        assert vectors(folder, "cat sharkk") == [[1, 0, 0]]
    with pytest.raises(EncodeError, match=r"no word of 'dgo' has a vector: 'dgo' is not known \(near: dog\)"):
        vectors(folder, "dgo")


def test_stored_phrases_fail_alone(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    report = EncodeReport()
    rows = registry.load(folder).encode(["a cat", "qqq", None, "", "dog"], report)
    assert [isinstance(row, EncodeError) for row in rows] == [False, True, True, True, False]
    assert (report.done, report.failed) == (2, 3)


def test_a_file_that_vanishes_later_does_no_harm(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    (tmp_path / "words.vec").unlink()
    assert vectors(folder, "dog") == [[0, 1, 0]]


def test_other_content_is_another_model(tmp_path: Path) -> None:
    _, card = prepared(tmp_path)
    (tmp_path / "words.vec").write_bytes(FASTTEXT.replace(b"dog 0 1 0", b"dog 0 1 1"))
    assert model_digest(registry.family("word_vectors"), options(tmp_path / "words.vec")) != card.digest


def test_class_names_of_a_classifier_are_looked_up(tmp_path: Path) -> None:
    text = prepared_text(*prepared(tmp_path))
    found = class_vectors([["cat", "Felis catus"], ["tiger shark", "shark"]], text)
    assert found.tolist() == [[1, 0, 0], [0.125, 0, 1.5]]
    with pytest.raises(CliploomError, match="can't encode the names of the classes"):
        class_vectors([["qqq"]], text)


def test_photographs_are_found_by_the_word_of_what_they_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(3)
    words = dict.fromkeys(name for names in class_names() for name in names_of(", ".join(names).lower()))
    rows = "".join(f"{word} {' '.join(map(str, random.standard_normal(50).round(4)))}\n" for word in words)
    (tmp_path / "words.vec").write_text(f"{len(words)} 50\n{rows}", encoding="utf-8")
    (tmp_path / "media").mkdir()
    for photo in (CAT, COFFEE, ROCKET):
        photo.load().save(tmp_path / "media" / f"{photo.subject}.png")
    (tmp_path / "cliploom.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    run = command(capsys)
    assert run("run", "cliploom.yaml").code == 0
    found = run("search", "store", "espresso", "--json", "--top", "1")
    assert [hit["uid"] for hit in json.loads(found.out)] == [COFFEE.subject]
    found = run("search", "store", "espresso wqzk", "--json", "--top", "1")
    assert [hit["uid"] for hit in json.loads(found.out)] == [COFFEE.subject]
    assert "'wqzk' is not known" in found.err
    found = run("search", "store", "esspresso")
    assert found.code == 2
    assert "'esspresso' is not known (near: espresso)" in found.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"3 2\na 1 2\nb 1 2\n", "says that it holds 3 words and holds 2; download it again"),
        (b"2 2\na 1 2\nb 1 x\n", "Line 3 of .* 'b 1 x', is not a word and 2 numbers"),
        (b"a 1 2 3\nb 1 2\nc 1 2 3 4\n", "Line 2 of .* 'b 1 2', is not a word and 3 numbers"),
        (b"2 2\na 1 2\nb 1 nan\n", "Line 3 of"),
        (b"a 1\n", "begins with 'a 1', where"),
        (b"", "holds no words"),
        (b"\n\n", "begins with '', where"),
        (b"3 2\n", "holds no words"),
        (b"\x1f\x8bbroken", "can't be read"),
        (gzip.compress(FASTTEXT, mtime=0)[:-20], "can't be read"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(CliploomError, match=said):
        prepared(tmp_path, content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CliploomError, match="no file of word vectors"):
        prepare_model("word_vectors", options(tmp_path / "none.vec"), tmp_path / "models")

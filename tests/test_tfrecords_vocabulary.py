"""vocabulary.csv and class weights."""

import io

import numpy as np
import pytest

from cliploom.schemas.errors import SpecError
from cliploom.transforms.tfrecords.vocabulary import read_vocabulary

HEADER = "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,WikiDescription\n"
ROWS = [
    '7,20,/m/07,"Dance, modern",https://x,Arts & Entertainment,,,"Moves, and\nmore moves"\n',
    "0,100,/m/03bt1gh,Game,https://en.wikipedia.org/wiki/Game,Games,Hobbies & Leisure,,A game\n",
    "1,40,/m/01,,,Unknown,,,\n",
]


def test_rows_need_not_be_sorted_and_names_may_hold_commas_or_be_blank() -> None:
    vocabulary = read_vocabulary(io.StringIO(HEADER + "".join(ROWS)))
    assert vocabulary.names([0, 7, 1]) == ["Game", "Dance, modern", "/m/01"]
    assert vocabulary.classes[0].verticals == ("Games", "Hobbies & Leisure")
    assert vocabulary.classes[7].count == 20
    assert vocabulary.width == 8


def test_two_columns_are_enough_for_ones_own_classes() -> None:
    vocabulary = read_vocabulary(["\ufeffIndex,Name\n", "0,cat\n", "1,\n"])
    assert vocabulary.names([0, 1]) == ["cat", "class 1"]


@pytest.mark.parametrize(
    "text",
    [
        "Index;Name\n007;000\n1;b, c\n",
        ' Index , Name \r\n007, 000\r\n\r\n1, "b, c"\r\n,\r\n',
        "\nIndex\tName\n7.0\t000\n1.0\tb, c\n",
    ],
)
def test_names_are_text_and_delimiters_those_of_the_header(text: str) -> None:
    vocabulary = read_vocabulary(io.StringIO(text, newline=""))
    assert vocabulary.names([7, 1]) == ["000", "b, c"]


def test_class_weights_have_the_published_values() -> None:
    # Class 0 of the published vocabulary has 788,288 training videos, the rarest 123; both published weights follow
    # from a total of 11,711,620 in 3,862 classes.
    counts = np.full(3862, 123)
    counts[0] = 788_288
    counts[1:3861] += np.diff(np.linspace(0, 11_711_620 - counts.sum(), 3861).astype(int))
    weights = read_vocabulary(
        ["Index,TrainVideoCount,Name\n", *(f"{index},{count},\n" for index, count in enumerate(counts))]
    ).weights()
    assert weights[0] == pytest.approx(0.0038470, abs=5e-8)
    assert weights.max() == pytest.approx(24.6547, abs=5e-5)


def test_weights_times_counts_are_equal_for_all_classes() -> None:
    weights = read_vocabulary(["Index,TrainVideoCount,Name\n", "1,30,b\n", "0,10,a\n"]).weights()
    assert weights.tolist() == [2.0, pytest.approx(2 / 3)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Index,Names\n0,a\n", "has no column 'Name'; did you mean 'Names'"),
        ("", "has no column 'Index'"),
        ("Index,Name\n", "lists no class"),
        ("Index,Name\n0,a\nx,b\n", "line 3: Index 'x' is not a whole number"),
        ("Index,Name\n-1,a\n", "Index '-1'"),
        ("Index,Name\n1.5,a\n", "Index '1.5'"),
        ("Index,Name\n1,a\0b\n", "contains a NUL character"),
        ("Index,Name,Name\n1,a,b\n", "2 columns named 'Name'"),
        ("Index,Name\n0,a\n0,b\n", "Index 0 is used before, for 'a'"),
        ("Index,Name,TrainVideoCount\n0,a,many\n", "TrainVideoCount 'many'"),
    ],
)
def test_a_broken_vocabulary_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        read_vocabulary(io.StringIO(text))


@pytest.mark.parametrize(("rows", "told"), [(["1,5,a"], "no class 0"), (["0,,a"], "Class 0 has no TrainVideoCount")])
def test_weights_need_every_count(rows: list[str], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        read_vocabulary(["Index,TrainVideoCount,Name\n", *rows]).weights()

"""Evaluations of a release against brute force over its tables, and against cases worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import command
from numpy.typing import NDArray
from stores import SmallStore

from cliploom.pipelines.training.comparing import ComparedFigure, compare_releases
from cliploom.pipelines.training.measuring import evaluate_given
from cliploom.schemas.errors import SpecError
from cliploom.transforms.encoders.registry import load_text_tower
from cliploom.transforms.evaluation.gallery import FeatureRows
from cliploom.transforms.evaluation.results import Evaluated
from cliploom.transforms.evaluation.retrieval import overlapping, ranked_things, window_rows
from cliploom.transforms.evaluation.similar import chosen_queries
from cliploom.transforms.evaluation.truths import DescribedThings, read_truth_table, subset
from cliploom.transforms.search.searching import open_store

CAPTIONS = """\
uid,text,start_s,end_s
videos/cat,a cat,0,2
videos/coffee,a cup of coffee,,
videos/rocket,a rocket on its way to space,1,1.5
page,a page of a book,,
page-again,a page of a book,,
nowhere,something else,,
"""


def quiet(text: str) -> None:
    """Say nothing."""


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "captions.csv"
    path.write_text(CAPTIONS)
    return path


def measured(project: SmallStore, **settings: object) -> Evaluated:
    return evaluate_given(str(project.store), settings, None, quiet)


def value(found: Evaluated, part: str, name: str) -> float:
    return found.parts[part].figures[name].value


def mean_place(scores: list[float], right: set[int]) -> float:
    best = max(scores[number] for number in right)
    others = [score for number, score in enumerate(scores) if number not in right]
    return 1 + sum(score > best for score in others) + sum(score == best for score in others) / 2


def test_retrieval_of_items_is_that_of_brute_force_over_the_table(built_store: SmallStore, captions: Path) -> None:
    found = measured(built_store, kind="retrieval", feature="frames", truth=str(captions), unit="item")

    store = open_store(str(built_store.store))
    table = store.table("frames").select("uid", "semantic").collect()
    uids = sorted(set(table["uid"]))
    texts = [("videos/cat", "a cat"), ("videos/coffee", "a cup of coffee")]
    texts += [("videos/rocket", "a rocket on its way to space"), ("page", "a page of a book")]
    texts.append(("page-again", "a page of a book"))
    tower = load_text_tower(built_store.store / store.features["frames"].model)
    queries = tower([text for _, text in texts]).astype(np.float64)

    def cosine(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
        return float(round(left @ right / np.linalg.norm(left) / np.linalg.norm(right), 6))

    rows = {uid: [np.array(v) for v in table.filter(table["uid"] == uid)["semantic"].to_list()] for uid in uids}
    scores = [[max(cosine(query, row) for row in rows[uid]) for uid in uids] for query in queries]
    ranks = [mean_place(line, {uids.index(uid)}) for line, (uid, _) in zip(scores, texts, strict=True)]
    assert value(found, "text to item", "MeanR") == pytest.approx(np.mean(ranks))
    assert value(found, "text to item", "R@1") == pytest.approx(np.mean([rank <= 1 for rank in ranks]))
    assert value(found, "text to item", "MRR") == pytest.approx(np.mean([1 / rank for rank in ranks]))
    backward = [
        mean_place(list(column), {number for number, (uid, _) in enumerate(texts) if uid == uids[place]})
        for place, column in enumerate(zip(*scores, strict=True))
        if any(uid == uids[place] for uid, _ in texts)
    ]
    assert value(found, "item to text", "MeanR") == pytest.approx(np.mean(backward))
    assert (found.parts["text to item"].queries, found.parts["text to item"].candidates) == (5, len(uids))
    assert found.notes[0] == "1 of 6 texts are about no item with rows in the feature"


def test_moments_are_the_default_where_texts_have_times(built_store: SmallStore, captions: Path) -> None:
    found = measured(built_store, kind="retrieval", feature="frames", truth=str(captions))
    rows = open_store(str(built_store.store)).table("frames").collect().height
    assert found.settings["unit"] == "moment"
    assert found.parts["text to item"].candidates == rows
    assert found.parts["text to item, as index frames answers"].figures.keys() == {"R@1", "R@5", "R@10"}


def test_items_that_share_a_caption_are_found_by_each_other(built_store: SmallStore, captions: Path) -> None:
    found = measured(built_store, kind="similar", feature="frames", output="pooled", truth=str(captions))
    part = found.parts["item to item"]
    # The two pages are the same picture.
    assert (part.queries, part.figures["R@1"].value, part.figures["MRR"].value) == (2, 1.0, 1.0)
    assert part.figures["P@5"].value == pytest.approx(1 / 5)
    assert part.figures["P@1"].chance == pytest.approx(1 / part.candidates)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "retrieval", "feature": "frames"}, "exactly one of 'texts' .* and 'truth'"),
        ({"kind": "retrieval", "feature": "looks", "truth": "CAPTIONS"}, "'looks' can't be compared with texts"),
        ({"kind": "retrieval", "feature": "frame", "truth": "CAPTIONS"}, "did you mean 'frames'"),
        ({"kind": "similar", "feature": "looks"}, "no given labels of source 'clips'"),
        ({"kind": "labels", "feature": "tags"}, "no predicted labels 'tags'"),
        ({"kind": "retrieval", "feature": "frames", "texts": "spoken"}, "no texts of source 'spoken'"),
    ],
)
def test_what_can_not_be_measured_is_one_sentence(
    built_store: SmallStore, captions: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        measured(built_store, **{key: str(captions) if text == "CAPTIONS" else text for key, text in settings.items()})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,text\na,b\n", "no column 'uid'"),
        ("uid,text\na,\n", "row 1: the text is empty"),
        ("uid,text,start_s\na,b,soon\n", "'soon', not a number of seconds"),
        ("uid,text,start_s,end_s\na,b,3,1\n", "end_s 1 is before start_s 3"),
        ("uid,text\n", "has no rows"),
    ],
)
def test_a_bad_truth_table_says_what_to_correct(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        read_truth_table(path, "--truth")


def gridded(rows: list[int], length_s: float = 2.0) -> FeatureRows:
    """Things with so many rows each, one a second, of 2 s."""
    starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    start_s = np.concatenate([np.arange(count, dtype=np.float64) for count in rows])
    vectors = np.arange(len(start_s), dtype=np.float32)[:, None]
    uids = [f"v{number}" for number in range(len(rows))]
    return FeatureRows(vectors, np.arange(len(start_s)), start_s, start_s + length_s, starts, uids)


def described(things: list[int], times: list[tuple[float, float]]) -> DescribedThings:
    start_s, end_s = np.array(times).T
    return DescribedThings([f"text {n}" for n in range(len(things))], np.array(things), start_s, end_s)


def test_rows_that_overlap_a_time_are_right() -> None:
    rows = gridded([3, 5])
    assert overlapping(rows, 1, 2.5, 3.5).tolist() == [3 + 1, 3 + 2, 3 + 3]
    assert overlapping(rows, 1, 2.0, 2.0).tolist() == [3 + 1, 3 + 2]
    assert overlapping(rows, 0, 30.0, 40.0).tolist() == []


def test_windows_start_where_mil_nce_has_them() -> None:
    # linspace(1, 9 - 2 - 0.4, 4) is 1, 2.87, 4.73, 6.6.
    assert window_rows(gridded([10]), 0, 1.0, 9.0, 4).tolist() == [1, 3, 5, 7]
    assert window_rows(gridded([10]), 0, 1.0, 2.0, 3).tolist() == [1, 1, 1]


def test_clips_are_the_mean_of_their_windows_and_equal_stretches_are_one() -> None:
    things = ranked_things(
        gridded([4, 10]), described([1, 1, 0], [(1.0, 9.0), (1.0, 9.0), (np.nan, np.nan)]), "clip", 4
    )
    assert things.vectors is not None
    assert things.vectors[:, 0].tolist() == [4 + 4.0, np.mean([0, 1, 2, 3])]
    assert things.owner.tolist() == [1, 0]
    assert things.relevance.things.tolist() == [0, 0, 1]


def test_a_subset_is_seeded_and_said() -> None:
    found = described([0] * 50, [(0.0, 1.0)] * 50)
    some = subset(found, 10, seed=1)
    assert some.texts == subset(found, 10, seed=1).texts
    assert some.texts != subset(found, 10, seed=2).texts
    assert some.notes == ("a seeded subset of 10 of 50 texts is measured",)


def test_queries_are_items_that_share_a_label() -> None:
    labels = [("cat",), ("dog", "pet"), ("cat", "pet"), (), ("cup",)]
    queries, relevance, notes = chosen_queries(labels, 10, 0, ["a", "b", "c", "d", "e"])
    pairs = {(int(queries[q]), int(thing)) for q, thing in zip(relevance.queries, relevance.things, strict=True)}
    assert pairs == {(0, 2), (2, 0), (1, 2), (2, 1)}
    assert notes == ("2 items share no label with another one; they are ranked, but not used as queries",)


def test_a_release_has_the_figures_that_its_spec_declares(
    small_store: SmallStore, captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluations = (
        "evaluations:\n"
        f"  search: {{kind: retrieval, feature: frames, truth: {captions}, unit: item}}\n"
        "  labels: {kind: similar, feature: frames, output: pooled}\n"
    )
    small_store.spec.write_text(small_store.spec.read_text() + evaluations)
    release = small_store.run().release
    assert release.release == 2
    given = measured(small_store, kind="retrieval", feature="frames", truth=str(captions), unit="item")
    assert release.figures["search"] == json.loads(json.dumps(given.to_dict()))
    # What can't be measured keeps no release from being published.
    assert "no given labels" in release.figures["labels"]["error"]

    rows = {row.name: row for row in compare_releases(str(small_store.store), 1, 2)}
    assert rows["search: text to item R@1"].old is None
    assert rows["search: text to item R@1"].new == value(given, "text to item", "R@1")
    assert small_store.run().release.release == 2

    call = command(capsys)
    done = call("compare", small_store.store, "1", "2")
    assert "search: text to item MedR" in done.out
    done = call("evaluate", small_store.spec, "--task", "search", "--to", small_store.folder / "out", "--json")
    assert json.loads(done.out)["search"] == release.figures["search"]
    assert (small_store.folder / "out" / "search.png").read_bytes()[:4] == b"\x89PNG"


def test_compare_without_figures_says_how_to_get_some(tmp_path: Path, small_store: SmallStore) -> None:
    text = small_store.spec.read_text()
    start, end = text.index("indexes:"), text.index("exports:")
    small_store.spec.write_text(text[:start] + text[end:])
    small_store.run()
    with pytest.raises(SpecError, match="kind: retrieval"):
        compare_releases(str(small_store.store), 2, 2)


def test_a_lower_median_rank_is_better() -> None:
    from cliploom.pipelines.training.comparing import _compared
    from cliploom.transforms.metrics.intervals import Figure

    row = _compared("search: text to item MedR", Figure(9, 8, 10), Figure(5, 4, 6))
    assert row == ComparedFigure("search: text to item MedR", 9, 5, (8, 10), (4, 6), apart=True, better=True)
    assert _compared("R@1", Figure(0.5, 0.4, 0.6), Figure(0.45, 0.35, 0.55)).apart is False

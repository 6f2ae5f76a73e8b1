"""Fits distinguish present from absent things on one scale; stores without calibration behave as before."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import Command, assert_one_sentence, command
from stores import SmallStore

from cliploom.schemas.errors import SpecError, StoreError
from cliploom.transforms.index.fit import FitVectors, noise_strings, row_scale, text_scales, unit
from cliploom.transforms.search.fit import fit_word
from cliploom.transforms.search.searching import Store, open_store
from cliploom.transforms.upkeep.vacuuming import vacuum_store
from cliploom.transforms.upkeep.verifying import verify_release

# What the small store's files show: a cat, a cup of coffee, a rocket, a printed page.
THERE = """\
cat;kitten;tabby;house cat;feline;tomcat;kitty;domestic cat;tabby cat;pussycat;coffee;espresso;cappuccino;
latte;cup of coffee;coffee cup;mug;coffee mug;cup;teacup;black coffee;rocket;missile;space rocket;projectile"""
ABSENT = """\
elephant;zebra;violin;piano;guitar;pizza;banana;broccoli;penguin;ostrich;flamingo;parrot;sheep;whale;
dolphin;mushroom;strawberry;hamburger;sofa;bathtub;refrigerator;umbrella;backpack;tractor;ambulance;volcano;sandal;trumpet;
volleyball;hammer"""


@pytest.fixture(scope="module")
def store(built_store: SmallStore) -> Store:
    return open_store(str(built_store.store))


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


def listed(nouns: str) -> list[str]:
    return nouns.replace("\n", "").split(";")


def best(store: Store, queries: list[str]) -> np.ndarray:
    return np.array([store.search(query, index=["frames"], top=1)[0].fit for query in queries])


def test_what_is_there_fits_better_than_what_is_not_and_nonsense_is_refused(store: Store) -> None:
    there, absent, noise = (
        best(store, listed(THERE)),
        best(store, listed(ABSENT)),
        best(store, noise_strings(50, seed=7)),
    )
    assert (there[:, None] > absent[None, :]).mean() >= 0.9
    assert np.mean([fit_word([fit]) == "none" for fit in noise]) >= 0.9
    assert np.mean([fit_word([fit]) == "none" for fit in absent]) >= 0.7
    assert np.mean([fit_word([fit]) == "good" for fit in there]) >= 0.7


def test_a_fit_lies_between_0_and_1_and_follows_the_score(store: Store) -> None:
    hits = store.search("a cat", index=["frames"], top=10)
    fits = [hit.fit for hit in hits]
    assert all(fit is not None and 0 <= fit <= 1 for fit in fits)
    assert fits == sorted(fits, reverse=True)  # type: ignore[type-var]


def test_several_indexes_give_the_best_of_their_fits(store: Store) -> None:
    alone = {hit.uid: hit.fit for hit in store.search("a cat", index=["frames"], top=10)}
    for hit in store.search("a cat", top=10):
        assert hit.fit is not None
        assert hit.fit >= (alone[hit.uid] or 0.0)


def test_an_equal_file_fits_and_another_does_not(store: Store) -> None:
    hits = {hit.uid: hit.fit for hit in store.search(like="page", index=["frames"], top=10)}
    assert hits["page-again"] > 0.65  # type: ignore[operator]
    assert hits["videos/coffee"] < 0.5  # type: ignore[operator]


def test_a_vector_and_an_index_of_another_metric_have_no_fit(store: Store) -> None:
    assert store.search(vector=[1.0] * 384, index=["frames"])[0].fit is None
    assert store.search(like="page", index=["graph"])[0].fit is None
    with pytest.raises(SpecError, match="No fit is known"):
        store.search(like="page", index=["graph"], min_fit=0.5)


def test_hits_below_the_least_fit_are_left_out(store: Store) -> None:
    hits = store.search("a cat", index=["frames"], top=10)
    kept = store.search("a cat", index=["frames"], top=10, min_fit=0.65)
    assert kept == [hit for hit in hits if hit.fit is not None and hit.fit >= 0.65]
    assert 0 < len(kept) < len(hits)
    with pytest.raises(SpecError, match="min_fit is 2"):
        store.search("a cat", min_fit=2)


def test_the_terminal_says_when_nothing_fits(cliploom: Command, built_store: SmallStore) -> None:
    ended = cliploom("search", built_store.store, "xqzt rrpw")
    assert "Nothing in this store fits 'xqzt rrpw'; these are the nearest." in ended.err
    assert "Nothing" not in cliploom("search", built_store.store, "a cat").err
    assert json.loads(cliploom("search", built_store.store, "a cat", "--json").out)[0]["fit"] > 0.65
    assert "No hits." in cliploom("search", built_store.store, "xqzt rrpw", "--min-fit", 0.9).out
    assert_one_sentence(cliploom("search", built_store.store, "a cat", "--min-fit", 7), 2, ("min_fit is 7",))


def test_a_store_without_scales_answers_without_fits(built_store: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_store(str(built_store.store))
    bare = {name: entry.model_copy(update={"fit": None}) for name, entry in opened.release.indexes.items()}
    monkeypatch.setattr(opened, "release", opened.release.model_copy(update={"indexes": bare}))
    hits = opened.search("a cat", index=["frames"])
    assert hits[0].uid in ("videos/cat", "both")
    assert {hit.fit for hit in hits} == {None}


def test_the_vectors_of_words_are_kept_checked_and_made_again(small_store: SmallStore) -> None:
    (path,) = (small_store.store / "index" / "words").iterdir()
    vacuum_store(str(small_store.store), 1)
    assert path.exists()
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    assert f"index/words/{path.name}" in {problem.path for problem in verify_release(str(small_store.store))}
    with pytest.raises(StoreError, match=r"fit-.* is damaged; `cliploom verify`"):
        open_store(str(small_store.store)).search("a cat", index=["frames"])
    path.unlink()
    small_store.run()
    assert path.read_bytes() == whole
    assert open_store(str(small_store.store)).search("a cat", index=["frames"])[0].fit is not None


def test_scales_grow_with_the_rows_that_a_sample_stands_for() -> None:
    generator = np.random.default_rng(3)

    def vectors(count: int) -> np.ndarray:
        return unit(generator.normal(size=(count, 32)).astype(np.float32))

    words = FitVectors(vectors(200), vectors(200), vectors(40))
    everything = vectors(8192)
    whole_nouns, whole_noise = text_scales(words, everything, len(everything))
    nouns, noise = text_scales(words, everything[:512], len(everything))
    small_nouns, small_noise = text_scales(words, everything[:512], 512)
    assert small_nouns.center < nouns.center == pytest.approx(whole_nouns.center, abs=0.05)
    assert small_noise.center < noise.center == pytest.approx(whole_noise.center, abs=0.05)


def test_rows_of_one_item_say_nothing_of_unrelated_ones() -> None:
    assert row_scale(np.arange(5), np.eye(5, dtype=np.float32), 5) is None

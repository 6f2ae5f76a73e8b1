"""Assembling the next table: every required row exactly once, regardless of leftover parts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.schemas.records import Rewrite
from cliploom.transforms.publish.assemble import (
    COMPUTED,
    HEAD,
    HELD,
    ORPHAN,
    TARGET_BYTES,
    WANTED,
    Assembly,
    assemble,
)


@dataclass(frozen=True)
class Held:
    """One content of a part."""

    part: str
    item_no: int
    digest: str
    rows: int = 2
    segment: int = 0
    segments: int = 1
    origin: int = HEAD


@dataclass(frozen=True)
class Want:
    """One item that the next table should hold."""

    item_no: int
    digest: str
    old_digest: str | None = None
    fresh: bool = False


BIG = TARGET_BYTES


def run(wanted: list[Want], held: list[Held], size: int = BIG, merge_small: int = 200) -> Assembly:
    frame = pl.DataFrame(
        [(w.item_no, f"u{w.item_no}", w.digest, w.old_digest, w.fresh) for w in wanted], schema=WANTED, orient="row"
    )
    rows = [(h.part, h.item_no, f"u{h.item_no}", h.digest, h.segment, h.segments, 2, h.rows, 0, h.origin) for h in held]
    sizes = {h.part: size for h in held}
    return assemble("frames", frame, pl.DataFrame(rows, schema=HELD, orient="row"), sizes, merge_small)


def table_of(assembly: Assembly, held: list[Held]) -> dict[tuple[int, int], tuple[str, int]]:
    """(item_no, segment) -> (digest, rows) of the table that comes out; fails when one comes twice."""
    contents = {(h.part, h.item_no, h.segment): h for h in held}
    found: dict[tuple[int, int], tuple[str, int]] = {}

    def put(item_no: int, content: Held) -> None:
        assert (item_no, content.segment) not in found
        found[item_no, content.segment] = (content.digest, content.rows)

    for place in assembly.places:
        assert held[place].part in assembly.keep
        put(held[place].item_no, held[place])
    for rewrite in assembly.rewrites():
        for use in rewrite.uses:
            for copy in use.copies:
                put(copy.to.item_no, contents[use.part, copy.from_item_no, copy.segment])
    return found


def rewritten_parts(rewrites: tuple[Rewrite, ...]) -> list[str]:
    return [use.part for rewrite in rewrites for use in rewrite.uses]


def test_a_part_whose_rows_are_all_wanted_is_kept() -> None:
    made = run([Want(1, "a"), Want(2, "b")], [Held("p", 1, "a"), Held("p", 2, "b")])
    assert (made.keep, tuple(made.rewrites())) == (("p",), ())


def test_a_delete_copies_the_other_rows_of_its_part_only() -> None:
    held = [Held("p", 1, "a"), Held("p", 2, "b"), Held("q", 3, "c")]
    made = run([Want(1, "a"), Want(3, "c")], held)
    assert made.keep == ("q",)
    assert table_of(made, held) == {(1, 0): ("a", 2), (3, 0): ("c", 2)}


def test_a_part_that_only_names_a_deleted_item_is_written_again() -> None:
    held = [Held("p", 1, "a"), Held("p", 2, "b", rows=0)]
    made = run([Want(1, "a")], held)
    assert made.keep == ()
    assert table_of(made, held) == {(1, 0): ("a", 2)}


def test_an_empty_content_is_carried_along_when_its_part_is_written_again() -> None:
    held = [Held("p", 1, "a"), Held("p", 2, "b", rows=0), Held("p", 3, "c")]
    made = run([Want(2, "b"), Want(3, "c")], held)
    assert table_of(made, held) == {(2, 0): ("b", 0), (3, 0): ("c", 2)}


def test_a_rename_takes_the_rows_from_the_old_name() -> None:
    held = [Held("p", 1, "a")]
    made = run([Want(2, "a")], held)
    assert (made.keep, rewritten_parts(tuple(made.rewrites()))) == ((), ["p"])
    assert table_of(made, held) == {(2, 0): ("a", 2)}


def test_an_item_whose_new_bytes_fail_keeps_its_old_rows() -> None:
    held = [Held("p", 1, "old"), Held("q", 1, "new", rows=0, origin=COMPUTED)]
    made = run([Want(1, "new", old_digest="old", fresh=True)], held)
    assert made.outdated["item_no"].to_list() == [1]
    assert table_of(made, held) == {(1, 0): ("old", 2)}


def test_an_item_that_no_part_holds_is_missing() -> None:
    made = run([Want(1, "a"), Want(2, "b")], [Held("p", 1, "a")])
    assert made.missing["item_no"].to_list() == [2]


def test_an_item_that_is_known_to_fail_is_not_missing() -> None:
    assert run([Want(1, "a")], [Held("p", 1, "a", rows=0)]).missing.is_empty()


def test_published_rows_win_over_those_of_killed_runs() -> None:
    held = [Held("p", 1, "a"), Held("b", 1, "a", origin=ORPHAN)]
    assert run([Want(1, "a")], held).keep == ("p",)


def test_rows_computed_again_win_over_all_others() -> None:
    held = [Held("p", 1, "a"), Held("b", 1, "a", origin=ORPHAN), Held("z", 1, "a", origin=COMPUTED)]
    assert run([Want(1, "a", fresh=True)], held).keep == ("z",)


def test_a_new_try_that_fails_leaves_the_rows_that_were_there() -> None:
    held = [Held("p", 1, "a", rows=1), Held("z", 1, "a", rows=0, origin=COMPUTED)]
    assert run([Want(1, "a", fresh=True)], held).keep == ("p",)


def test_segments_of_different_splits_never_mix() -> None:
    whole = [Held("p", 1, "a", rows=6)]
    split = [Held("q", 1, "a", 3, 0, 2, ORPHAN), Held("r", 1, "a", 3, 1, 2, ORPHAN)]
    lost = [Held("s", 1, "a", 2, 0, 3, ORPHAN)]
    assert table_of(run([Want(1, "a")], whole + split + lost), whole) == {(1, 0): ("a", 6)}
    assert run([Want(1, "a")], split + lost).keep == ("q", "r")
    assert run([Want(1, "a")], lost).missing["item_no"].to_list() == [1]


def test_rows_split_anew_replace_those_of_the_old_split() -> None:
    held = [Held("p", 1, "a", rows=6), Held("q", 1, "a", 3, 0, 2, COMPUTED), Held("r", 1, "a", 3, 1, 2, COMPUTED)]
    assert run([Want(1, "a", fresh=True)], held).keep == ("q", "r")


def test_a_renamed_item_takes_all_segments_of_one_split() -> None:
    held = [Held("p", 1, "a", 3, 0, 2), Held("q", 1, "a", 3, 1, 2), Held("r", 1, "a", 1, 2, 3, ORPHAN)]
    assert table_of(run([Want(2, "a")], held), held) == {(2, 0): ("a", 3), (2, 1): ("a", 3)}


def test_small_parts_are_merged_only_when_there_are_many() -> None:
    held = [Held(f"p{n}", n, f"d{n}") for n in range(1, 6)]
    wanted = [Want(n, f"d{n}") for n in range(1, 6)]
    few = run(wanted, held, size=1000, merge_small=5)
    assert (len(few.keep), tuple(few.rewrites())) == (5, ())
    many = run(wanted, held, size=1000, merge_small=4)
    assert (many.keep, len(tuple(many.rewrites()))) == ((), 1)
    assert table_of(many, held) == {(n, 0): (f"d{n}", 2) for n in range(1, 6)}


def test_merging_leaves_large_parts_alone_and_fills_to_the_target() -> None:
    held = [Held(f"p{n:03}", n, f"d{n}") for n in range(1, 203)]
    wanted = [Want(n, f"d{n}") for n in range(1, 203)]
    assert tuple(run(wanted, held, size=TARGET_BYTES // 4, merge_small=1).rewrites()) == ()
    merged = run(wanted, held, size=TARGET_BYTES // 4 - 1, merge_small=1)
    assert [len(rewrite.uses) for rewrite in tuple(merged.rewrites())] == [4] * 50 + [2]


def test_a_small_table_keeps_many_parts() -> None:
    """A change of two items of a table of 50 MB writes less of it again than if they had gone into one large part."""
    held = [Held(f"p{n:02}", number, f"d{number}") for n in range(50) for number in (2 * n, 2 * n + 1)]
    wanted = [Want(number, f"d{number}") for number in range(100) if number % 10]
    made = run(wanted, held, size=TARGET_BYTES // 32)
    assert [len(rewrite.uses) for rewrite in tuple(made.rewrites())] == [2] * 5


NUMBERS = st.integers(1, 4)
DIGESTS = st.sampled_from(["a", "b", "c"])


@st.composite
def contents(draw: st.DrawFn) -> Held:
    segments = draw(st.sampled_from([1, 1, 2]))
    rows, segment = draw(st.integers(0, 2)), draw(st.integers(0, segments - 1))
    part, origin = draw(st.sampled_from([("p", HEAD), ("q", HEAD), ("r", ORPHAN), ("s", COMPUTED)]))
    return Held(part, draw(NUMBERS), draw(DIGESTS), rows, segment, segments, origin)


def wholes(held: list[Held], item_no: int | None, digest: str) -> list[dict[int, int]]:
    """Rows by segment: all ways to take an item (or any, for None) whole, with some rows, from one split."""
    found: list[dict[int, int]] = []
    numbers = {h.item_no for h in held} if item_no is None else {item_no}
    for number in numbers:
        for segments in (1, 2):
            mine = [h for h in held if (h.item_no, h.digest, h.segments) == (number, digest, segments)]
            ways = itertools.product(*([h.rows for h in mine if h.segment == s] for s in range(segments)))
            found += [dict(enumerate(way)) for way in ways if sum(way)]
    return found


@given(
    st.lists(st.tuples(NUMBERS, DIGESTS, st.none() | DIGESTS, st.booleans()), max_size=4, unique_by=lambda w: w[0]),
    st.lists(contents(), max_size=9, unique_by=lambda h: (h.part, h.item_no, h.segment)),
    st.sampled_from([1, 200]),
)
@settings(max_examples=250, deadline=None)
def test_every_wanted_item_comes_whole_and_once(
    wanted: list[tuple[int, str, str | None, bool]], held: list[Held], merge_small: int
) -> None:
    wants = [Want(no, digest, old if old != digest else None, fresh) for no, digest, old, fresh in wanted]
    made = run(wants, held, size=1000, merge_small=merge_small)
    table = table_of(made, held)
    missing, outdated = set(made.missing["item_no"]), set(made.outdated["item_no"])
    assert {no for no, _ in table} <= {want.item_no for want in wants}
    for want in wants:
        mine = {segment: content for (no, segment), content in table.items() if no == want.item_no}
        rows = {segment: count for segment, (_, count) in mine.items()}
        own = wholes(held, want.item_no, want.digest)
        if own:
            assert {digest for digest, _ in mine.values()} == {want.digest}
            assert rows in own
        elif want.item_no in outdated:
            assert rows in wholes(held, want.item_no, want.old_digest or "")
        elif sum(rows.values()):
            assert rows in wholes(held, None, want.digest)
        else:
            known = any((h.item_no, h.digest) == (want.item_no, want.digest) for h in held)
            assert want.item_no in missing or known

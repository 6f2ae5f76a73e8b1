"""Commands that start from a store: list, search, inspect, check and clean it up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cliploom.pipelines.cli.app import JsonOption, ReleaseOption, StoreOrHereArgument, app
from cliploom.pipelines.cli.where import find_store, find_store_and_text

if TYPE_CHECKING:
    from cliploom.transforms.search.words import SearchMode


@app.command()
def releases(store: StoreOrHereArgument = None, as_json: JsonOption = False) -> None:
    """List the releases of a store."""
    from cliploom.pipelines.console import show, show_json
    from cliploom.pipelines.listings import release_rows, release_table

    rows = release_rows(find_store(store, "releases"))
    if as_json:
        show_json(rows)
    else:
        show(release_table(rows))


@app.command()
def rollback(
    store: StoreOrHereArgument = None,
    release: Annotated[int | None, typer.Argument(help="The release to go back to.", show_default=False)] = None,
) -> None:
    """Publish a release that is equal to an older one.

    A single number means a release of the store in ./cliploom.yaml.
    """
    from cliploom.schemas.errors import SpecError

    if store is not None and release is None and store.isdecimal() and not Path(store).exists():
        release, store = int(store), None
    if release is None:
        raise SpecError("The argument RELEASE is missing; `cliploom releases` lists their numbers.")
    from cliploom.pipelines.console import say
    from cliploom.pipelines.running.publish import rollback as roll_back

    made = roll_back(find_store(store, f"rollback {release}"), release)
    say(f"Release {made.release} now points back to release {release}.")


@app.command()
def failures(
    store: StoreOrHereArgument = None,
    every: Annotated[bool, typer.Option("--list", help="List every failed file instead of grouping.")] = False,
    kind: Annotated[str | None, typer.Option("--type", help="Only this type, such as NoVideo.")] = None,
    stage: Annotated[str | None, typer.Option("--stage", help="Only this stage, such as probe.")] = None,
    glob: Annotated[str | None, typer.Option("--glob", help="Only items whose uid or file matches.")] = None,
    release: ReleaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """List failures, grouped by reason or file by file."""
    from cliploom.pipelines.console import fit, show, show_json
    from cliploom.pipelines.listings import (
        ALL_FAILURES,
        FailureFilter,
        failure_counts,
        failure_groups,
        failure_list,
        failure_rows,
        failure_text,
    )

    store = find_store(store, "failures")
    wanted = FailureFilter(kind, stage, glob)
    if as_json:
        show_json(failure_rows(store, release, wanted))
    elif every:
        show(fit(failure_list(failure_rows(store, release, wanted))))
    else:
        counts = failure_counts(store, release) if wanted == ALL_FAILURES else None
        show(fit(failure_text(failure_groups(store, release, wanted), counts)))


@app.command()
def status(
    store: StoreOrHereArgument = None,
    follow: Annotated[bool, typer.Option("--follow", help="Follow the run until it ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the progress of the newest run.

    Includes runs on a cluster.
    """
    import time
    from dataclasses import asdict

    from cliploom.pipelines.console import fit, show, show_json
    from cliploom.pipelines.running.status import follow as follow_run
    from cliploom.pipelines.running.status import run_status, status_text

    store = find_store(store, "status")
    found = follow_run(store, (lambda text: None) if as_json else show) if follow else run_status(store)
    if as_json:
        show_json(asdict(found))
    elif not follow:
        show(fit(status_text(found, time.time())))


@app.command()
def attach(
    store: StoreOrHereArgument = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when an item failed.")] = False,
    metrics_file: Annotated[
        Path | None, typer.Option("--metrics-file", help="Write run metrics for Prometheus to this file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Wait for the newest run if its launcher was stopped.

    Shows its progress, writes its report, and exits with the run's exit code.
    """
    from cliploom.pipelines.running.action import attach_action

    store = find_store(store, "attach")
    raise typer.Exit(attach_action(store, as_json=as_json, strict=strict, metrics_file=metrics_file))


@app.command()
def search(
    store: StoreOrHereArgument = None,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The text to search for.", show_default=False)
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option("--like", help="A file, URL, uid, or uid@12.5s; may be repeated.", show_default=False),
    ] = None,
    not_text: Annotated[
        list[str] | None, typer.Option("--not", help="A text that hits should be unlike.", show_default=False)
    ] = None,
    not_like: Annotated[
        list[str] | None, typer.Option("--not-like", help="A file or uid that hits should be unlike.")
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", help="Weights of text, --like, --not, --not-like, in this order."),
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="Filter, such as \"year >= 2020 AND label = 'cat'\".")
    ] = None,
    in_uid: Annotated[str | None, typer.Option("--in", help="Search in one item only.", show_default=False)] = None,
    index: Annotated[list[str] | None, typer.Option("--index", help="The index to search; may be repeated.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="The number of hits.")] = 10,
    offset: Annotated[int, typer.Option("--offset", min=0, help="The number of hits to skip.")] = 0,
    moments: Annotated[int, typer.Option("--moments", min=0, help="The number of moments to show per hit.")] = 0,
    group: Annotated[
        str | None, typer.Option("--group", help="Show the best hit of each value of a column.", show_default=False)
    ] = None,
    facet: Annotated[
        list[str] | None, typer.Option("--facet", help="Count the values of a column among the hits.")
    ] = None,
    rank: Annotated[str, typer.Option("--rank", help="The ranker: max, mean or bimatch.")] = "max",
    d_miss: Annotated[
        float | None, typer.Option("--d-miss", help="Distance at which bimatch counts a miss.", show_default=False)
    ] = None,
    min_fit: Annotated[
        float | None, typer.Option("--min-fit", help="The minimum fit of hits, 0 to 1.", show_default=False)
    ] = None,
    mode: Annotated[str, typer.Option("--mode", help="Search a text by vectors, words or both.")] = "vectors",
    query: Annotated[
        str | None,
        typer.Option("--query", help="A complete query as JSON or @FILE; prints JSON.", show_default=False),
    ] = None,
    release: ReleaseOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the hits with pictures to this file, one HTML page.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search by text, and by files or items that hits should be like."""
    import warnings

    from cliploom.pipelines.console import say, show, show_json
    from cliploom.pipelines.listings import distance_of, facet_text, hit_table
    from cliploom.schemas.errors import SpecError
    from cliploom.transforms.encoders.word_vectors import UnknownWordsWarning
    from cliploom.transforms.search.query_model import Query, read_query
    from cliploom.transforms.search.searching import open_store

    asks_nothing_else = not (like or query)
    store, text = find_store_and_text(store, text, None if asks_nothing_else else (like or ["-"])[0])
    if query is not None and (text is not None or like or not_text or not_like):
        raise SpecError("A text or --like is given beside --query; put it among the parts of the query.")
    opened = open_store(store, release)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", UnknownWordsWarning)
        if query is None:
            parts = opened.query_parts(text, like, None, not_text or (), not_like or (), weight)
            page = (top, offset, rank, d_miss, moments, group, tuple(facet or ()))
            names = tuple(index) if index else None
            asked = Query(parts, where, in_uid, names, *page, cast("SearchMode", mode), min_fit)
        else:
            asked = read_query(query)
        answer = opened.ask(asked)
    for note in noted:
        if issubclass(note.category, UnknownWordsWarning):
            say(str(note.message))
    if query is not None:
        show_json(answer.to_dict())
        return
    # Several lists are merged by rank, whatever the metrics of their indexes.
    indexes = opened.release.indexes
    metrics = {indexes[hit.index].metric for hit in answer.hits if hit.index in indexes}
    distances = metrics == {"l2"} and len({hit.index for hit in answer.hits}) == 1 and rank != "bimatch"
    if html is not None:
        from cliploom.transforms.search.hits_page import hits_page
        from cliploom.transforms.search.html_page import write_page

        write_page(html, hits_page(opened, answer.hits, asked.title, answer.message))
    if as_json:
        show_json([hit.to_dict() | ({"distance": distance_of(hit.score)} if distances else {}) for hit in answer.hits])
    elif html is not None:
        say(f"{len(answer.hits)} hits are written to {html}; open it in a browser.")
    else:
        show(hit_table(answer.hits, distances, offset))
        for name, counts in answer.facets.items():
            show(facet_text(name, counts))
    if answer.message:
        say(answer.message)
    alike = opened.indexes_for_likeness()
    if opened.asks_for_likeness(asked) and len(alike) < len(indexes):
        outputs = ", ".join(f"{name} (over {indexes[name].output})" for name in alike)
        say(f"Searched the index {outputs}; choose another with --index.")


@app.command()
def inspect(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A video, GIF, image, TFRecord, Parquet or HDF5 file, or a store; that of ./cliploom.yaml by default.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The number of records, items or rows to read.")] = 100,
    release: ReleaseOption = None,
    sample: Annotated[
        list[str] | None, typer.Option("--sample", help="Show what a sampling selects, e.g. 'every: 1s'.")
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Decode the sampled frames to find damage.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Describe the content of a file or a store.

    Shows its kind, columns or features, shapes, first values; for media streams, frames, times, colour and damage.
    """
    from cliploom.pipelines.cli.inspecting import inspect as look
    from cliploom.pipelines.cli.inspecting import inspect_text
    from cliploom.pipelines.console import fit, short_paths, show, show_json

    found = look(
        find_store(None, "inspect") if target is None else target, limit, release, sample or (), decoded=decode
    )
    if as_json:
        show_json(found)
    else:
        show(fit(short_paths(inspect_text(found))))


@app.command()
def verify(
    store: StoreOrHereArgument = None,
    release: ReleaseOption = None,
    recompute: Annotated[
        int, typer.Option("--recompute", min=0, help="Instead, recompute rows of N items per feature and compare.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Check every file of a release.

    Checks hashes, ids, copies, and that vectors find themselves.
    """
    from cliploom.pipelines.console import counted, say, show, show_json
    from cliploom.transforms.upkeep.verifying import verify_release

    if recompute:
        from cliploom.pipelines.drift import show_drift

        raise typer.Exit(show_drift(find_store(store, "verify"), recompute, release, as_json=as_json))
    problems = verify_release(find_store(store, "verify"), release)
    if as_json:
        show_json([{"path": problem.path, "problem": problem.problem} for problem in problems])
    else:
        for problem in problems:
            show(f"{problem.path}: {problem.problem}")
    if problems:
        count = counted(len(problems), "problem")
        say(f"{count}; `cliploom rollback STORE RELEASE` to one that verifies, or run again with --full-refresh.")
        raise typer.Exit(4)
    say("All files are intact.")


@app.command()
def vacuum(
    store: StoreOrHereArgument = None,
    keep_releases: Annotated[int, typer.Option("--keep-releases", min=1, help="Number of newest releases.")] = 7,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Keep what was in use within this time; 0s for none.")
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete files that no kept release uses.

    Releases that were the newest one less than --older-than ago are kept: they may have readers.
    """
    from cliploom.pipelines.console import counted, human_bytes, removed_lines, say, show, show_json
    from cliploom.schemas.errors import SpecError
    from cliploom.schemas.units import parse_duration
    from cliploom.transforms.upkeep.vacuuming import vacuum_store

    try:
        seconds = parse_duration("0s" if older_than.strip() == "0" else older_than)
    except ValueError as error:
        raise SpecError(f"--older-than: {error}.") from None
    removed = vacuum_store(find_store(store, "vacuum"), keep_releases, older_than=seconds, dry_run=dry_run, report=say)
    if as_json:
        show_json([{"path": entry.path, "size": entry.size} for entry in removed])
    would = "would be " if dry_run else ""
    total = human_bytes(sum(entry.size for entry in removed))
    say(f"{counted(len(removed), 'file')}, {total}, {would}removed{':' if dry_run and removed else '.'}")
    if dry_run and not as_json:
        for line in removed_lines([(entry.path, entry.size) for entry in removed]):
            show(line)

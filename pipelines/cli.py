"""The command line. Heavy libraries are imported by the commands that need them, so that ``--help`` is quick."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import CliploomError

app = typer.Typer(
    name="cliploom",
    help="Videos, GIFs and images in; published feature stores and searchable indexes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SpecArgument = Annotated[Path, typer.Argument(help="The spec, a YAML file.", show_default=False)]
StoreArgument = Annotated[str, typer.Argument(help="The store: a folder, s3:// or gs://.", show_default=False)]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a value: key.path=value. May be repeated.")
]
TargetOption = Annotated[str | None, typer.Option("--target", help="Where to run; the spec's first target by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Take a seeded subset of N items.")]
ReleaseOption = Annotated[int | None, typer.Option("--release", help="An older release; the newest by default.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from pipelines.console import show
        from pipelines.version import program_version

        show(f"cliploom {program_version()}")
        raise typer.Exit(0)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Videos, GIFs and images in; published feature stores and searchable indexes out."""


@app.command()
def demo(folder: Annotated[Path, typer.Argument(help="Folder to write to.")] = Path("demo")) -> None:
    """Write demo media of real content, with a truth file and a spec."""
    from pipelines.console import say
    from pipelines.demo import write_demo

    truth = write_demo(folder)
    say(f"Wrote {len(truth.items)} files to {truth.folder}; next: cliploom run {shlex.quote(str(truth.spec))}")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder with videos, GIFs or images.", show_default=False)],
    spec: Annotated[Path, typer.Option("--spec", help="Where to write the spec.")] = Path("cliploom.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a spec that is there already.")] = False,
) -> None:
    """Write a spec for a folder of one's own media."""
    from pipelines.console import say
    from pipelines.scaffold import write_spec

    found = write_spec(folder, spec, force)
    say(f"Wrote {spec} for {found} files below {folder}; next: cliploom run {shlex.quote(str(spec))} --limit 100")


@app.command()
def validate(spec: SpecArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Check a spec without listing files or loading models."""
    from pipelines.check import check_encoders
    from pipelines.console import show, show_json
    from schemas.spec_file import load_spec
    from transforms.store.objects import Objects
    from transforms.store.uris import absolute

    loaded = load_spec(spec, overrides or ())
    check_encoders(loaded, absolute(spec).parent)
    Objects(loaded.store)
    counts = {part: len(getattr(loaded, part)) for part in ("sources", "encoders", "features", "indexes", "exports")}
    if as_json:
        show_json({"spec": str(spec), "valid": True} | counts)
    else:
        show(f"{spec} is valid: " + ", ".join(f"{number} {part}" for part, number in counts.items()) + ".")


@app.command()
def graph(spec: SpecArgument, overrides: SetOption = None) -> None:
    """Print the spec's DAG as a Mermaid flowchart."""
    from pipelines.console import show
    from pipelines.scaffold import mermaid
    from schemas.spec_file import load_spec

    show(mermaid(load_spec(spec, overrides or ())))


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="The reference page docs/spec.md.")] = False,
) -> None:
    """Print the spec's JSON Schema, for editors."""
    from pipelines.console import show, show_json
    from pipelines.reference import spec_markdown, spec_schema

    if markdown:
        show(spec_markdown())
    else:
        show_json(spec_schema())


@app.command()
def plan(
    spec: SpecArgument,
    target: TargetOption = None,
    limit: LimitOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try known failures again.")] = False,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Compute everything again.")] = False,
    measure: Annotated[int, typer.Option("--measure", min=0, help="Try N items for the clock.")] = 0,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would do, and why; probes new files, keeps nothing that it computes."""
    from pipelines.console import show, show_json
    from pipelines.preview import plan_preview, preview_text
    from pipelines.run import RunOptions

    options = RunOptions(target=target, limit=limit, retry_failed=retry_failed, full_refresh=full_refresh)
    preview = plan_preview(spec, overrides or (), options, measure)
    if as_json:
        show_json(preview)
    else:
        show(preview_text(preview))


@app.command()
def run(
    context: typer.Context,
    spec: SpecArgument,
    target: TargetOption = None,
    limit: LimitOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try known failures again.")] = False,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Compute everything again.")] = False,
    allow_recompute: Annotated[bool, typer.Option("--allow-recompute", help="Lift limits.max_recompute.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when any item failed.")] = False,
    metrics_file: Annotated[
        Path | None, typer.Option("--metrics-file", help="Leave the run's end there for Prometheus.")
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a store up to date with its spec and publish a release. Beam options may follow after --."""
    from pipelines.action import run_action

    request = {
        "action": "run",
        "spec": str(spec.absolute()),
        "overrides": list(overrides or ()),
        "target": target,
        "limit": limit,
        "retry_failed": retry_failed,
        "full_refresh": full_refresh,
        "accept": {"recompute": allow_recompute},
        "extra": list(context.obj or ()),
        "command": f"cliploom run {spec}",
    }
    raise typer.Exit(
        run_action(request, spec, overrides or (), as_json=as_json, strict=strict, metrics_file=metrics_file)
    )


@app.command()
def publish(
    store: StoreArgument,
    accept_failures: Annotated[bool, typer.Option("--accept-failures", help="Lift limits.max_failed.")] = False,
    allow_deletes: Annotated[bool, typer.Option("--allow-deletes", help="Lift limits.max_deleted.")] = False,
    allow_recompute: Annotated[bool, typer.Option("--allow-recompute", help="Lift limits.max_recompute.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that a limit stopped: its computed parts are used, nothing is computed twice."""
    from pipelines.action import publish_action

    accept = {"failures": accept_failures, "deletes": allow_deletes, "recompute": allow_recompute}
    raise typer.Exit(publish_action(store, accept, as_json=as_json))


@app.command()
def compact(spec: SpecArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Merge small parts; no row changes."""
    from pipelines.action import run_action

    request = {
        "action": "run",
        "spec": str(spec.absolute()),
        "overrides": list(overrides or ()),
        "compact": True,
        "command": f"cliploom compact {spec}",
    }
    raise typer.Exit(run_action(request, spec, overrides or (), as_json=as_json, strict=False))


@app.command()
def releases(store: StoreArgument, as_json: JsonOption = False) -> None:
    """List the releases of a store."""
    from pipelines.console import show, show_json
    from pipelines.listings import release_rows, release_table

    rows = release_rows(store)
    if as_json:
        show_json(rows)
    else:
        show(release_table(rows))


@app.command()
def rollback(
    store: StoreArgument, release: Annotated[int, typer.Argument(help="The release to point back to.")]
) -> None:
    """Publish a release that points back to an older one."""
    from pipelines.console import say
    from pipelines.publish import rollback as roll_back

    made = roll_back(store, release)
    say(f"Release {made.release} now points back to release {release}.")


@app.command()
def failures(store: StoreArgument, release: ReleaseOption = None, as_json: JsonOption = False) -> None:
    """List what failed, grouped by reason."""
    from pipelines.console import show, show_json
    from pipelines.listings import failure_groups, failure_rows, failure_text

    if as_json:
        show_json(failure_rows(store, release))
    else:
        show(failure_text(failure_groups(store, release)))


@app.command()
def status(
    store: StoreArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run has ended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far the newest run is, also one that goes on on a cluster."""
    import time
    from dataclasses import asdict

    from pipelines.console import show, show_json
    from pipelines.status import follow as follow_run
    from pipelines.status import run_status, status_text

    found = follow_run(store, (lambda text: None) if as_json else show) if follow else run_status(store)
    if as_json:
        show_json(asdict(found))
    elif not follow:
        show(status_text(found, time.time()))


@app.command()
def search(
    store: StoreArgument,
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.", show_default=False)] = None,
    like: Annotated[str | None, typer.Option("--like", help="A file, a uid, or uid@12.5s.")] = None,
    index: Annotated[list[str] | None, typer.Option("--index", help="Which index; may be repeated.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many hits.")] = 10,
    rank: Annotated[str, typer.Option("--rank", help="How rows make hits: max, mean or bimatch.")] = "max",
    release: ReleaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search by words, or by a file or item that hits should be like."""
    from pipelines.console import show, show_json
    from pipelines.listings import hit_table
    from transforms.search.searching import open_store

    found = open_store(store, release).search(text, like=like, index=index, top=top, rank=rank)
    if as_json:
        show_json([hit.to_dict() for hit in found])
    else:
        show(hit_table(found))


@app.command()
def inspect(
    target: Annotated[str, typer.Argument(help="A TFRecord, Parquet or HDF5 file, or a store.", show_default=False)],
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many records or items to look at.")] = 100,
    release: ReleaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a file or a store holds: kind, columns or features, shapes, first values."""
    from pipelines.console import show, show_json
    from pipelines.inspecting import inspect as look
    from pipelines.inspecting import inspect_text

    found = look(target, limit, release)
    if as_json:
        show_json(found)
    else:
        show(inspect_text(found))


@app.command()
def verify(store: StoreArgument, release: ReleaseOption = None, as_json: JsonOption = False) -> None:
    """Check every file that a release names: hashes, ids, copies, that vectors find themselves."""
    from pipelines.console import counted, say, show, show_json
    from transforms.upkeep.verifying import verify_release

    problems = verify_release(store, release)
    if as_json:
        show_json([{"path": problem.path, "problem": problem.problem} for problem in problems])
    else:
        for problem in problems:
            show(f"{problem.path}: {problem.problem}")
    if problems:
        count = counted(len(problems), "problem")
        say(f"{count}; `cliploom rollback STORE RELEASE` to one that verifies, or run again with --full-refresh.")
        raise typer.Exit(4)
    say("All files verify.")


@app.command()
def vacuum(
    store: StoreArgument,
    keep_releases: Annotated[int, typer.Option("--keep-releases", min=1, help="How many of the newest to keep.")] = 7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what no kept release names."""
    from pipelines.console import human_bytes, say, show, show_json
    from transforms.upkeep.vacuuming import vacuum_store

    removed = vacuum_store(store, keep_releases, dry_run=dry_run)
    if as_json:
        show_json([{"path": entry.path, "size": entry.size} for entry in removed])
    elif dry_run:
        for entry in removed:
            show(entry.path)
    would = "would be " if dry_run else ""
    say(f"{len(removed)} files, {human_bytes(sum(entry.size for entry in removed))}, {would}removed.")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command, prints errors as one sentence, exits with their code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments[: arguments.index("--") if "--" in arguments else None]
    if debug:
        arguments.remove("--debug")
    try:
        raise SystemExit(_invoke(arguments))
    except CliploomError as error:
        if debug:
            raise
        print(f"cliploom: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("\ncliploom: stopped; finished parts are kept, the same command goes on from there.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        if debug:
            raise
        print(f"cliploom: {type(error).__name__}: {error} (a fault of cliploom; --debug shows where)", file=sys.stderr)
        raise SystemExit(1) from None


def _invoke(arguments: list[str]) -> int:
    """Run typer without its own error printing; what stands after ``--`` is the context's object."""
    from pipelines.usage import usage_error

    extra: list[str] = []
    if arguments[:1] == ["run"] and "--" in arguments:
        cut = arguments.index("--")
        arguments, extra = arguments[:cut], arguments[cut + 1 :]
    command = typer.main.get_command(app)
    try:
        # Not command.main, which makes exit codes of Ctrl-C and closed pipes.
        with command.make_context("cliploom", list(arguments), obj=extra) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except typer.TyperException as error:
        if not arguments:
            print(error.message, file=sys.stderr)
            return 2
        raise usage_error(error, arguments) from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    return 0

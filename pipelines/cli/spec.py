"""Commands that start from a spec: create one, check it, run it."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cliploom.pipelines.cli.app import (
    JsonOption,
    LimitOption,
    SetOption,
    SpecOrHereArgument,
    StoreOrHereArgument,
    TargetOption,
    app,
)
from cliploom.pipelines.cli.where import SPEC_NAME, find_spec, find_store


class LogFormat(StrEnum):
    """How a run says what it does on stderr."""

    TEXT = "text"
    JSON = "json"


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")] = Path("demo"),
    labels: Annotated[bool, typer.Option("--labels", help="Clips in class folders, and a spec to learn them.")] = False,
) -> None:
    """Write a demo of real media, with ground truth and a spec."""
    from cliploom.pipelines.console import say
    from cliploom.pipelines.demo.make import write_demo

    truth = write_demo(folder, labels=labels)
    say(f"Wrote {len(truth.items)} files to {truth.folder}; next: cliploom run {shlex.quote(str(truth.spec))}")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder with videos, GIFs or images.", show_default=False)],
    spec: Annotated[Path, typer.Option("--spec", help="The spec file to write.")] = Path(SPEC_NAME),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing spec.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="A model for pictures and sentences: clip:FOLDER, or clip: and a name on the hub."
        ),
    ] = None,
) -> None:
    """Write a spec for a folder of your own media."""
    from cliploom.pipelines.cli.scaffold import write_spec
    from cliploom.pipelines.console import counted, fit, say

    found = write_spec(folder, spec, force, model)
    say(fit(f"Wrote {spec} for {counted(found.types.total(), 'file')} below {folder}: {found.found_text()}."))
    if found.left_out_text():
        say(fit(found.left_out_text()))
    say(f"Next: cliploom run {shlex.quote(str(spec))} --limit 100")


@app.command()
def validate(spec: SpecOrHereArgument = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Check a spec without listing files or loading models."""
    from cliploom.pipelines.console import counted, show, show_json
    from cliploom.pipelines.planning.check import check_encoders, missing_devices
    from cliploom.schemas.spec_file import load_spec
    from cliploom.transforms.store.object_store import ObjectStore
    from cliploom.transforms.store.uris import absolute

    spec = find_spec(spec, "validate")
    loaded = load_spec(spec, overrides or ())
    devices = missing_devices(check_encoders(loaded, absolute(spec).parent))
    ObjectStore(loaded.store)
    parts = {"source": "sources", "encoder": "encoders", "feature": "features", "index": "indexes", "export": "exports"}
    counts = {many: len(getattr(loaded, many)) for many in parts.values()}
    if as_json:
        show_json({"spec": str(spec), "valid": True} | counts | ({"missing_devices": devices} if devices else {}))
    else:
        said = ", ".join(counted(counts[many], one, many) for one, many in parts.items())
        show(f"{spec} is valid: {said}.")
        for text in devices.values():
            show(text)


@app.command()
def graph(spec: SpecOrHereArgument = None, overrides: SetOption = None) -> None:
    """Print the spec's DAG as a Mermaid flowchart."""
    from cliploom.pipelines.cli.scaffold import mermaid
    from cliploom.pipelines.console import show
    from cliploom.schemas.spec_file import load_spec

    show(mermaid(load_spec(find_spec(spec, "graph"), overrides or ())))


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="The reference page docs/spec.md.")] = False,
) -> None:
    """Print the spec's JSON Schema, for editors."""
    from cliploom.pipelines.cli.reference import spec_markdown, spec_schema
    from cliploom.pipelines.console import show, show_json

    if markdown:
        show(spec_markdown())
    else:
        show_json(spec_schema())


@app.command()
def plan(
    spec: SpecOrHereArgument = None,
    target: TargetOption = None,
    limit: LimitOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Retry known failures.")] = False,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Compute everything again.")] = False,
    measure: Annotated[int, typer.Option("--measure", min=0, help="Time N items to estimate the run.")] = 0,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would do, and why.

    New files are probed; nothing is computed or published.
    """
    from cliploom.pipelines.console import fit, say, show, show_json

    say("• starting")
    from cliploom.pipelines.running.preview import plan_preview, preview_text
    from cliploom.pipelines.running.run import RunOptions

    options = RunOptions(target=target, limit=limit, retry_failed=retry_failed, full_refresh=full_refresh)
    preview = plan_preview(find_spec(spec, "plan"), overrides or (), options, measure)
    if as_json:
        show_json(preview)
    else:
        show(fit(preview_text(preview)))


@app.command()
def run(
    context: typer.Context,
    spec: SpecOrHereArgument = None,
    target: TargetOption = None,
    limit: LimitOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Retry known failures.")] = False,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Compute everything again.")] = False,
    allow_recompute: Annotated[bool, typer.Option("--allow-recompute", help="Lift limits.max_recompute.")] = False,
    accept_worse: Annotated[bool, typer.Option("--accept-worse", help="Use a head that became worse.")] = False,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Choose new int8 samples and recompute its vectors.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when any item failed.")] = False,
    metrics_file: Annotated[
        Path | None, typer.Option("--metrics-file", help="Metrics for Prometheus, rewritten while it works.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", min=0, max=65535, help="Serve metrics at this port of 127.0.0.1; 0: any."),
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", help="json: JSON lines, also those of workers.")
    ] = LogFormat.TEXT,
    openlineage: Annotated[
        str | None, typer.Option("--openlineage", help="File or server address for OpenLineage events.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Begin no new work after this time, such as 06:00.")
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option("--max-hours", help="Begin no new work after so many hours.")
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a store up to date with its spec.

    Computes what is new or changed and publishes a release. Beam options may follow after --.
    """
    import time

    from cliploom.pipelines.console import log_as_json, say
    from cliploom.pipelines.running.budget import deadline_of

    if log_format is LogFormat.JSON:
        log_as_json()
    deadline = deadline_of(until, max_hours, time.time())
    say("• starting")
    from cliploom.pipelines.running.action import run_action
    from cliploom.pipelines.running.observers import Observers

    spec = find_spec(spec, "run")
    observers = Observers(metrics_file, metrics_port, openlineage or "")
    request = {
        "action": "run",
        "spec": str(spec),
        "overrides": list(overrides or ()),
        "target": target,
        "limit": limit,
        "retry_failed": retry_failed,
        "full_refresh": full_refresh,
        "recalibrate": recalibrate,
        "accept": {"recompute": allow_recompute, "worse": accept_worse},
        "extra": list(context.obj or ()),
        "command": f"cliploom run {spec}",
        "deadline": deadline,
        "log_format": log_format.value if log_format is LogFormat.JSON else "",
    }
    raise typer.Exit(run_action(request, spec, overrides or (), as_json=as_json, strict=strict, observers=observers))


@app.command()
def publish(
    store: StoreOrHereArgument = None,
    accept_failures: Annotated[bool, typer.Option("--accept-failures", help="Lift limits.max_failed.")] = False,
    allow_deletes: Annotated[bool, typer.Option("--allow-deletes", help="Lift limits.max_deleted.")] = False,
    allow_recompute: Annotated[bool, typer.Option("--allow-recompute", help="Lift limits.max_recompute.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish a run that a limit stopped.

    Its computed parts are reused; nothing is computed twice.
    """
    from cliploom.pipelines.console import say

    say("• starting")
    from cliploom.pipelines.running.action import publish_action

    accept = {"failures": accept_failures, "deletes": allow_deletes, "recompute": allow_recompute}
    raise typer.Exit(publish_action(find_store(store, "publish"), accept, as_json=as_json))


@app.command()
def compact(spec: SpecOrHereArgument = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Merge small parts without changing rows."""
    from cliploom.pipelines.console import say

    say("• starting")
    from cliploom.pipelines.running.action import run_action

    spec = find_spec(spec, "compact")
    request = {
        "action": "run",
        "spec": str(spec),
        "overrides": list(overrides or ()),
        "compact": True,
        "command": f"cliploom compact {spec}",
    }
    raise typer.Exit(run_action(request, spec, overrides or (), as_json=as_json, strict=False))

"""The bar of a run as a terminal shows it: a line with figures, and one with the file at work, never wider than it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cliploom.pipelines.live_bar import make_bar


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("at", ["", "videos/" + "very-" * 60 + "long.mp4", "[red]odd[/nothing]"])
def test_two_lines_that_fit_the_terminal(width: int, at: str) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    bar = make_bar(console)
    task = bar.add_task("", total=None, said="", at="")
    bar.update(task, completed=0.5, total=1.0, said="3/4 items, [bold]30 rows[/nothing]", at=at)
    with console.capture() as said:
        console.print(bar.get_renderable())
    lines = said.get().rstrip("\n").split("\n")
    assert len(lines) == (2 if at else 1)
    assert max(map(len, lines)) <= width
    if width >= 80:
        assert "0:00:00" in lines[0]
        assert "3/4 items, [bold]30 rows[/nothing]" in lines[0], "names and figures are no markup"
    if at:
        assert lines[1].startswith(f"  {at[:20]}")


def test_it_is_taken_away_when_it_stops() -> None:
    assert make_bar(Console(file=io.StringIO(), force_terminal=True)).live.transient

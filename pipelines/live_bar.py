"""The progress bar of a run: one line with figures, and one with the current file."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text


class _TwoLines(Progress):
    """A progress bar that shows the field ``at`` of its task on a second line."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar, then the current file, if any."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["at"]:
                yield Text(f"  {task.fields['at']}", no_wrap=True, overflow="ellipsis")


def make_bar(console: Console) -> Progress:
    """Return a progress bar that disappears when it stops; its task has the fields ``said`` and ``at``."""
    return _TwoLines(
        SpinnerColumn(),
        BarColumn(bar_width=12),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        console=console,
        transient=True,
        refresh_per_second=5,
    )

"""YouTube-8M's vocabulary.csv: class indices, names, and class weights.

Columns: ``Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,WikiDescription``. Rows are
not sorted by Index; names may be blank or contain commas. Only Index and Name are required, so your own classes may be
listed in a file with two columns. Source: docs/formats.md section 4.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError, nearest
from cliploom.transforms.inputs.tables import clean_name, delimiter_of, spaced

_VERTICALS = ("Vertical1", "Vertical2", "Vertical3")


@dataclass(frozen=True, slots=True)
class LabelClass:
    """One class.

    Attributes:
        count: the number of training videos with the class; 0 if unknown.
        graph_id: the Knowledge Graph id, such as ``/m/03bt1gh``, or empty.
        name: the name; may be blank.
        verticals: the nonblank verticals, in file order.
    """

    index: int
    name: str
    count: int = 0
    graph_id: str = ""
    verticals: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name to display, else the Knowledge Graph id, else ``class 12``."""
        return self.name or self.graph_id or f"class {self.index}"


@dataclass(frozen=True)
class Vocabulary:
    """All classes, by index."""

    classes: Mapping[int, LabelClass]

    @property
    def width(self) -> int:
        """The length of a score vector: the largest index + 1."""
        return max(self.classes, default=-1) + 1

    def names(self, labels: Iterable[int]) -> list[str]:
        """Return the titles of class indices.

        Raises:
            KeyError: an index has no class.
        """
        return [self.classes[label].title for label in labels]

    def weights(self) -> NDArray[np.float64]:
        """Return class weights ``sum(count) / (classes * count)``, float64 [width]; rare classes have larger weights.

        Raises:
            SpecError: a class has no training video, or an index is missing.
        """
        for index in range(self.width):
            if index not in self.classes:
                raise SpecError(
                    f"The vocabulary has no class {index}; class weights need every index up to {self.width - 1}."
                )
            if self.classes[index].count <= 0:
                raise SpecError(
                    f"Class {index} has no TrainVideoCount above 0; class weights need one for every class."
                )
        counts = np.array([self.classes[index].count for index in range(self.width)], np.float64)
        return np.asarray(counts.sum() / (len(counts) * counts), np.float64)


def read_vocabulary(lines: Iterable[str], file: str = "vocabulary.csv") -> Vocabulary:
    """Parse a vocabulary.

    Args:
        lines: the lines of a text file opened with ``newline=""``, UTF-8 (a byte order mark is tolerated).
        file: the file name for errors.

    Raises:
        SpecError: a column is missing, an Index or TrainVideoCount is not a natural number, an Index is repeated, or
            there is no class.
    """
    left = iter(lines)
    header = next((line for line in left if line.strip()), "")
    delimiter = delimiter_of(header, ("Index", "Name"))
    reader = csv.DictReader(chain([header], left), delimiter=delimiter, skipinitialspace=spaced(header, delimiter))
    columns = [clean_name(name) for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    for column in ("Index", "Name"):
        if column not in columns:
            raise SpecError(f"{file} has no column '{column}'{nearest(column, columns)}")
        if columns.count(column) > 1:
            raise SpecError(f"{file} has {columns.count(column)} columns named '{column}'; rename all but one.")
    classes: dict[int, LabelClass] = {}
    for row in reader:
        where = f"{file}, line {reader.line_num}"
        if not any(value.strip() for value in row.values() if isinstance(value, str)):
            continue
        if "\0" in (row["Name"] or ""):
            raise SpecError(f"{where}: the name {row['Name']!r} contains a NUL character; remove it.")
        index = _natural(row["Index"], "Index", where)
        if index in classes:
            raise SpecError(f"{where}: Index {index} is used before, for '{classes[index].title}'; remove one of them.")
        classes[index] = LabelClass(
            index,
            (row["Name"] or "").strip(),
            _natural(row.get("TrainVideoCount") or "0", "TrainVideoCount", where),
            (row.get("KnowledgeGraphId") or "").strip(),
            tuple(value for column in _VERTICALS if (value := (row.get(column) or "").strip())),
        )
    if not classes:
        raise SpecError(f"{file} lists no class; it needs a line for each, such as '0,Game' under 'Index,Name'.")
    return Vocabulary(classes)


def _natural(text: str | None, column: str, where: str) -> int:
    cleaned = (text or "").strip()
    whole, point, zeros = cleaned.partition(".")
    if point and not zeros.strip("0"):
        cleaned = whole  # as a table writes an integer column that has blank cells
    if not (cleaned.isascii() and cleaned.isdecimal()):
        raise SpecError(f"{where}: {column} {cleaned!r} is not a whole number from 0 on.")
    return int(cleaned)

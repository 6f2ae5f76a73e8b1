"""A release: what readers see, tables, indexes and exports that belong together; one row of ``releases``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

STORE_FORMAT = 1


class StoreModel(BaseModel):
    """Base of what is kept as JSON in the store; unknown keys are ignored, so older programs can list newer ones."""

    model_config = ConfigDict(frozen=True)


class ShortRepr(StoreModel):
    """Base of what shows itself in a line: what it is and how much it holds; ``model_dump()`` gives everything."""

    def _shown(self) -> dict[str, Any]:
        """What is shown, by name."""
        raise NotImplementedError

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """For pydantic's ``repr`` and ``str``."""
        return self._shown().items()


class FileEntry(StoreModel):
    """An immutable file of a release; ``path`` is relative to the store."""

    path: str
    size: int
    digest: str


class OutputEntry(StoreModel):
    """Width and vector space of one output.

    Attributes:
        type: of the values in the records that it was read from: ``float32``, ``int64``, ``uint8``, or ``text``, which
            is no vector.
    """

    dim: int
    space: str
    text: bool = False
    labels: str = ""
    type: str = "float32"


def text_columns(source: str, names: Iterable[str]) -> dict[str, OutputEntry]:
    """Columns of texts as heads see them: of width 0, in a space of their own."""
    return {name: OutputEntry(dim=0, space=f"{source}.{name}", type="text") for name in names}


class FeatureEntry(ShortRepr):
    """A feature's table at a version.

    Attributes:
        texts: columns of texts beside the outputs.
        recipe: what the config digest was made from, for readable reasons when it changes.
        model: folder of the prepared model, relative to the store.
        model_files: its files and those of the models that it refers to.
        repeated: rows that were dropped because they repeat the one before, of items without a failure.
        precision: of the model.
        figures: of a quantised model against float32, as its card has them; see ``PrecisionFigures``.
        processors: features of the processors that rows were computed on, with the smallest cosine of what a quantised
            model gives there to what it gives where it was prepared.
    """

    source: str
    encoder: str
    config: str
    table: str
    version: int
    rows: int
    parts: int
    size: int
    model: str
    model_files: list[FileEntry] = []
    outputs: dict[str, OutputEntry]
    texts: list[str] = []
    recipe: dict[str, Any]
    repeated: int = 0
    precision: str = "f32"
    figures: dict[str, Any] = {}
    processors: dict[str, float | None] = {}

    def _shown(self) -> dict[str, Any]:
        outputs = {name: output.dim for name, output in self.outputs.items()}
        return {"source": self.source, "encoder": self.encoder, "rows": self.rows, "outputs": outputs}

    @property
    def columns(self) -> dict[str, OutputEntry]:
        """What heads can read: the outputs, and texts as columns of width 0."""
        return self.outputs | text_columns(self.source, self.texts)


class IndexShardEntry(StoreModel):
    """One index file and the parts whose rows it holds."""

    file: FileEntry
    rows: int
    parts: list[str]


class FitScale(StoreModel):
    """How queries score that have nothing to do with a store: the fit of ``center`` is a half, more is better."""

    center: float
    scale: float


class FitEntry(StoreModel):
    """How unrelated queries score in an index, measured when it was built; see ``cliploom.transforms.index.fit``.

    Attributes:
        nouns: of a word's score above its likeness to the nearest known nouns.
        noise: of the score of strings without meaning.
        rows: of the score of rows of other items, for queries by a file or an item.
        words: float16 vectors of the known nouns and of what was measured with; None where no text can ask.
        known: how many of the vectors, the first ones, are the known nouns.
    """

    nouns: FitScale | None = None
    noise: FitScale | None = None
    rows: FitScale | None = None
    words: FileEntry | None = None
    known: int = 0


class IndexEntry(ShortRepr):
    """An index over one output of a feature.

    Attributes:
        recipe: digest of the declaration; another recipe means another index.
        trained_rows: rows in the table when the centroids were trained.
        trained_recall: recall@10 right after that; what bytes blur, no training mends.
        d_miss: of searches that rank by ``bimatch``; None is the metric's default.
    """

    feature: str
    output: str
    metric: str
    kind: str
    recipe: str
    rows: int
    shards: list[IndexShardEntry]
    nprobe: int = 0
    recall: float | None = None
    trained: FileEntry | None = None
    trained_rows: int = 0
    trained_recall: float | None = None
    reason: str = ""
    d_miss: float | None = None
    fit: FitEntry | None = None

    def _shown(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in ("feature", "output", "metric", "kind", "rows")}
        return shown if self.recall is None else shown | {"recall": self.recall}


class WordShardEntry(StoreModel):
    """A file of the inverted index: which texts have which words."""

    file: FileEntry
    documents: int
    words: int


class ExportEntry(ShortRepr):
    """An export: its files, the first of which is the one that readers open."""

    kind: str
    feature: str
    recipe: str
    files: list[FileEntry]
    parts: dict[str, str] = {}

    def _shown(self) -> dict[str, Any]:
        return {"kind": self.kind, "feature": self.feature, "files": len(self.files)}


class HeadEntry(ShortRepr):
    """A feature of predicted labels; its rows stand in the table ``labels`` with the origin ``predicted:<name>``.

    Attributes:
        head: name of the head; ``model`` is the folder of the one that was in use, relative to the store.
        inputs: (feature, output) pairs that it read.
        recipe: what the config digest was made from.
    """

    source: str
    head: str
    config: str
    model: str
    model_files: list[FileEntry] = []
    inputs: list[tuple[str, str]]
    recipe: dict[str, Any] = {}

    def _shown(self) -> dict[str, Any]:
        return {"source": self.source, "head": self.head, "inputs": self.inputs}


class Release(ShortRepr):
    """One release, whole.

    Attributes:
        spec: as written, variables not resolved.
        declared: digest of what was asked of each index, export and evaluation, defaults spelled out and lists of uids
            read.
        figures: by evaluation, what was measured before the release was published.
        prober: revision of the prober that all of its media were shown to.
    """

    release: int
    run: str
    created_at: datetime
    format: int = STORE_FORMAT
    program: str
    note: str = ""
    spec: dict[str, Any]
    declared: dict[str, str] = {}
    tables: dict[str, int]
    features: dict[str, FeatureEntry] = {}
    indexes: dict[str, IndexEntry] = {}
    exports: dict[str, ExportEntry] = {}
    heads: dict[str, HeadEntry] = {}
    words: list[WordShardEntry] = []
    figures: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    next_item_no: int = 1
    prober: int = 1
    seconds: float = 0.0

    def _shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "release": self.release,
            "created_at": f"{self.created_at:%Y-%m-%d %H:%MZ}",
            "items": self.counts.get("items", 0),
            "failed": self.counts.get("failed", 0),
        }
        held = ("features", "indexes", "exports", "heads")
        shown |= {name: list(getattr(self, name)) for name in held if getattr(self, name)}
        return shown | ({"note": self.note} if self.note else {})

"""A release: tables, indexes and exports that belong together; one row of ``releases``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

STORE_FORMAT = 1


class StoreModel(BaseModel):
    """Base class of JSON models in the store; unknown keys are ignored, so older programs can list newer stores."""

    model_config = ConfigDict(frozen=True)


class ShortRepr(StoreModel):
    """Base class for a one-line representation with the main facts; ``model_dump()`` returns everything."""

    def _shown(self) -> dict[str, Any]:
        """Return the values to show, by name."""
        raise NotImplementedError

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Return the arguments for pydantic's ``repr`` and ``str``."""
        return self._shown().items()


class FileEntry(StoreModel):
    """An immutable file of a release; ``path`` is relative to the store."""

    path: str
    size: int
    digest: str


class OutputEntry(StoreModel):
    """The width and vector space of one output.

    Attributes:
        type: the type of the values in the records that it was read from: ``float32``, ``int64``, ``uint8``, or
            ``text``, which is not a vector.
    """

    dim: int
    space: str
    text: bool = False
    labels: str = ""
    type: str = "float32"


def text_columns(source: str, names: Iterable[str]) -> dict[str, OutputEntry]:
    """Return text columns in the form of heads' inputs: of width 0, in a space of their own."""
    return {name: OutputEntry(dim=0, space=f"{source}.{name}", type="text") for name in names}


class FeatureEntry(ShortRepr):
    """A version of a feature's table.

    Attributes:
        texts: the text columns beside the outputs.
        recipe: the values behind the config digest, for readable reasons when it changes.
        model: the folder of the prepared model, relative to the store.
        model_files: its files and those of the models that it refers to.
        repeated: the number of rows dropped as repeats of the previous one, for items without a failure.
        precision: the precision of the model.
        figures: comparison of a quantised model with float32, from its card; see ``PrecisionFigures``.
        processors: the processor features that rows were computed with, and the smallest cosine of a quantised model's
            results there to those where it was prepared.
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
        """The columns that heads can read: the outputs, and texts as columns of width 0."""
        return self.outputs | text_columns(self.source, self.texts)


class IndexShardEntry(StoreModel):
    """One index file and the parts whose rows it contains."""

    file: FileEntry
    rows: int
    parts: list[str]


class FitScale(StoreModel):
    """The score distribution of unrelated queries: a score of ``center`` has the fit one half, larger is better."""

    center: float
    scale: float


class FitEntry(StoreModel):
    """The scores of unrelated queries in an index, measured when it was built; see ``cliploom.transforms.index.fit``.

    Attributes:
        nouns: the scale of a word's score minus its similarity to the nearest known nouns.
        noise: the scale of the scores of meaningless strings.
        rows: the scale of the scores between rows of different items, for queries by a file or an item.
        words: float16 vectors of the known nouns and of the measured texts; None without text support.
        known: the number of known nouns, which come first among the vectors.
    """

    nouns: FitScale | None = None
    noise: FitScale | None = None
    rows: FitScale | None = None
    words: FileEntry | None = None
    known: int = 0


class IndexEntry(ShortRepr):
    """An index over one output of a feature.

    Attributes:
        recipe: the digest of the declaration; another recipe means another index.
        trained_rows: the number of rows in the table when the centroids were trained.
        trained_recall: the recall@10 right after that; retraining cannot undo the loss from quantisation.
        d_miss: the cost of a miss for searches with ``bimatch``; None for the metric's default.
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
    """A file of the inverted index: the words of texts."""

    file: FileEntry
    documents: int
    words: int


class ExportEntry(ShortRepr):
    """An export: its files, of which readers open the first."""

    kind: str
    feature: str
    recipe: str
    files: list[FileEntry]
    parts: dict[str, str] = {}

    def _shown(self) -> dict[str, Any]:
        return {"kind": self.kind, "feature": self.feature, "files": len(self.files)}


class HeadEntry(ShortRepr):
    """A feature of predicted labels; its rows are in the table ``labels`` with the origin ``predicted:<name>``.

    Attributes:
        head: the name of the head; ``model`` is the folder of the model in use, relative to the store.
        inputs: the (feature, output) pairs that it reads.
        recipe: the values behind the config digest.
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
    """A complete release.

    Attributes:
        spec: the spec as written, without variables filled in.
        declared: the digest of the declared indexes, exports and evaluations, with defaults filled in and lists of uids
            loaded.
        figures: the results of evaluations before publishing, by name.
        prober: the revision of the prober that all of its media were probed with.
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

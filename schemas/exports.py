"""Exports in a spec: copies of features in file formats of other programs, by kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cliploom.schemas.spec_base import KeepSpec, Model, Name
from cliploom.schemas.units import Count, NonNegativeSeconds, Share


class Hdf5Export(Model):
    """One dataset per uid, in parts linked by a master file, or in one self-contained file (``single``).

    Attributes:
        feature: the name of a feature.
        output: the only output to export; by default all, each in a group with its name.
        single: whether to write one self-contained file instead of a master that links parts.
        names: ``readable``: ``file[uid]`` works, a slash in a uid makes groups, and the dataset ``uids`` lists them;
            ``escaped``: one flat name per uid, with slash, dot and percent sign as percent codes, as in the parts.
    """

    kind: Literal["hdf5"]
    feature: Name
    output: str | None = None
    single: bool = False
    names: Literal["readable", "escaped"] = "readable"


class PcaSpec(Model):
    """A projection on principal components, ``(x - mean) @ vectors / sqrt(values + 1e-4)``, as in YouTube-8M.

    Attributes:
        path: an .npz file, or a folder of .npy files, with mean, eigenvectors and eigenvalues.
        components: the number of components to keep; all by default.
        rows: whether the matrix has one eigenvector per row, as in YouTube-8M's published files.
    """

    path: str
    components: Count | None = None
    rows: bool = False


class TfrecordExport(Model):
    """Shards in YouTube-8M's formats, by hash of the id, with the labels of the feature's source.

    Attributes:
        feature: the feature to export completely; its rows must be ordered by time.
        format: ``yt8m_frame``: the rows of each uid (at most 300) as 8-bit codes; ``yt8m_video``: their mean.
        rgb, audio: the outputs to export as ``rgb`` and ``audio``; by default the outputs with these names, else the
            only output as ``rgb``.
        pca: a projection of each row of the output exported as ``rgb``.
        shards: the number of files.
        gzip: whether to compress each file.
    """

    kind: Literal["tfrecord"]
    feature: Name
    format: Literal["yt8m_frame", "yt8m_video"]
    rgb: str | None = None
    audio: str | None = None
    pca: PcaSpec | None = None
    shards: Count = 1
    gzip: bool = False

    @property
    def output(self) -> str | None:
        """The single output to export, in the terms of ``hdf5``."""
        return self.rgb


class TakeSpec(Model):
    """Keeps a number of evenly spaced rows of each window.

    Attributes:
        take: the number of rows.
    """

    take: Count


class SplitSpec(Model):
    """How videos are assigned to splits; a video is never in two.

    Attributes:
        shares: maps each split to its share of the videos, by a hash of the uid with ``seed``; they add up to 100%.
        lists: maps each split to a file of uids or URLs, one per line, those of the texts or of the features; videos in
            no file are dropped.
        seed: the seed of ``shares``.
    """

    shares: Annotated[dict[Name, Share], Field(min_length=1)] | None = None
    seed: int = 0
    lists: Annotated[dict[Name, str], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> SplitSpec:
        if (self.shares is None) == (self.lists is None):
            raise ValueError("give exactly one of 'shares' and 'lists'")
        if self.shares is not None and abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ValueError(f"the shares add up to {sum(self.shares.values()):.4g}, not to 1; correct them")
        return self


class PairsExport(Model):
    """Narrations with the clip features of their moments, for training.

    Attributes:
        feature: clip features evenly spaced in time (windows with ``fps``, ``every``, or precomputed); of any sampling
            if the texts have no times, since these pair with the whole clip.
        text: a feature of narrations.
        output, text_output: the outputs; optional if the features have one output each.
        around: the time to include on each side of a moment.
        pool: ``mean`` of the rows in that time, or ``{take: n}`` of them.
        keep: filters in addition to those of the source.
        splits: how videos are assigned to splits; by default all are in ``train``.
        format: ``parquet`` or ``hdf5``: files by split and shard; ``tutorial``: one self-contained HDF5 file with whole
            clip features, text vectors and a list of {uid, txt, ts, idx, pass}.
        shards: the number of files per split.
    """

    kind: Literal["pairs"]
    feature: Name
    text: Name
    output: str | None = None
    text_output: str | None = None
    around: NonNegativeSeconds = 2.0
    pool: Literal["mean"] | TakeSpec = "mean"
    keep: KeepSpec = KeepSpec()
    splits: SplitSpec = SplitSpec.model_validate({"shares": {"train": "100%"}})
    format: Literal["parquet", "hdf5", "tutorial"] = "parquet"
    shards: Count = 1


Export = Hdf5Export | TfrecordExport | PairsExport

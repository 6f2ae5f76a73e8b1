"""Exports of a spec: copies of features in the files that other programs read, by kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cliploom.schemas.spec_base import KeepSpec, Model, Name
from cliploom.schemas.units import Count, NonNegativeSeconds, Share


class Hdf5Export(Model):
    """One dataset a uid, in parts linked by a master file, or in one self-contained file (``single``).

    Attributes:
        feature: name of a feature.
        output: exported alone; all by default, each in a group of its name.
        single: one file that holds copies, instead of a master that links parts.
        names: ``readable``: ``file[uid]`` works, a slash in a uid makes groups, and the dataset ``uids`` lists them;
            ``escaped``: one flat name a uid, in which slash, dot and percent sign are percent codes, as in the parts.
    """

    kind: Literal["hdf5"]
    feature: Name
    output: str | None = None
    single: bool = False
    names: Literal["readable", "escaped"] = "readable"


class PcaSpec(Model):
    """A projection on principal components, ``(x - mean) @ vectors / sqrt(values + 1e-4)``, as YouTube-8M makes it.

    Attributes:
        path: an .npz file, or a folder of .npy files, with mean, eigenvectors and eigenvalues.
        components: how many are kept; all by default.
        rows: the matrix holds an eigenvector a row, as in YouTube-8M's published files.
    """

    path: str
    components: Count | None = None
    rows: bool = False


class TfrecordExport(Model):
    """Shards in YouTube-8M's formats, by hash of the id; labels are those of the feature's source.

    Attributes:
        feature: exported whole; its rows have to be in the order of time.
        format: ``yt8m_frame``: the rows of each uid (300 at the most) as 8-bit codes; ``yt8m_video``: their mean.
        rgb, audio: which output goes where; by default ``rgb`` and ``audio`` where the feature has them, else its
            only output as ``rgb``.
        pca: applied to each row of the output that becomes ``rgb``.
        shards: number of files.
        gzip: compress each file as a whole.
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
        """What ``hdf5`` calls the one output to export."""
        return self.rgb


class TakeSpec(Model):
    """Keep so many rows of each window, evenly spread.

    Attributes:
        take: number of rows.
    """

    take: Count


class SplitSpec(Model):
    """How videos are dealt out to splits; a video is never in two.

    Attributes:
        shares: split -> share of the videos, by a hash of the uid with ``seed``; they add up to 100%.
        lists: split -> file of uids or addresses, one a line, those of the texts or of the features; videos in no file
            are dropped.
        seed: of ``shares``.
    """

    shares: Annotated[dict[Name, Share], Field(min_length=1)] | None = None
    seed: int = 0
    lists: Annotated[dict[Name, str], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> SplitSpec:
        if (self.shares is None) == (self.lists is None):
            raise ValueError("give exactly one of 'shares' and 'lists'")
        if self.shares is not None and abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ValueError(f"the shares add up to {sum(self.shares.values()):.4g}, not to 1; mend them")
        return self


class PairsExport(Model):
    """Narrations beside the clip features of their moments, for training.

    Attributes:
        feature: clip features on a grid (windows with ``fps``, ``every``, or precomputed); of any sampling where the
            texts have no times, since these pair with the whole clip.
        text: a feature of narrations.
        output, text_output: may be left out when the features have one output each.
        around: a moment stands for so much time to both sides.
        pool: ``mean`` of the rows in that time, or ``{take: n}`` of them.
        keep: filters, beside those of the source.
        splits: how videos are dealt out; all are ``train`` by default.
        format: ``parquet`` or ``hdf5``: files by split and shard; ``tutorial``: one self-contained HDF5 file with whole
            clip features, text vectors and a list of {uid, txt, ts, idx, pass}.
        shards: files a split.
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

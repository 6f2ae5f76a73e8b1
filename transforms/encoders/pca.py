"""Another encoder's vectors, projected on principal components, as in YouTube-8M after Inception.

The matrices become part of the prepared model, so the projection is applied wherever the model is used: in runs, for
queries, and for the inputs of heads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, ValidationError, model_validator

from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.errors import EncodeError, SpecError
from cliploom.schemas.models import CARD_FILE, Modality, ModelCard, Output
from cliploom.schemas.precision import QUANTISED
from cliploom.schemas.units import Count
from cliploom.transforms.encoders.base import Encoder, EncodeReport, EncoderOptions, Family, PreparedText
from cliploom.transforms.encoders.presets import with_preset
from cliploom.transforms.encoders.registry import family, read_card
from cliploom.transforms.encoders.weights import beside, sha256_of
from cliploom.transforms.store.encoded import as_results
from cliploom.transforms.tfrecords.pca import Pca, load_pca, save_pca

if TYPE_CHECKING:
    from cliploom.transforms.encoders.base import Row

PCA_FILE = "pca.npz"
ENCODER_FOLDER = "encoder"


class PcaOptions(EncoderOptions):
    """A projected encoder.

    Attributes:
        encoder: the kind and options of the encoder before the projection, optionally with its preset.
        output: the output of that encoder to project; optional if it has only one.
        path: an .npz file, or a folder of .npy files, as written by ``cliploom fit-pca``.
        components: the number of components to keep; all by default.
        rows: whether the matrix has one eigenvector per row, as in YouTube-8M's published files.
    """

    VALUE_FREE: ClassVar[frozenset[str]] = frozenset({"encoder", "path"})
    encoder: dict[str, Any] = Field(min_length=1)
    output: str | None = None
    path: str
    components: Count | None = None
    rows: bool = False

    @model_validator(mode="after")
    def _known_encoder(self) -> PcaOptions:
        kind = self.encoder.get("kind")
        if not isinstance(kind, str) or kind == Projected.kind or "text_encoder" in self.encoder:
            raise ValueError("encoder takes the kind and the options of another encoder, without text_encoder")
        if self.encoder.get("precision") in QUANTISED:
            raise ValueError("encoder.precision is for f32 and bf16; write precision beside encoder, not inside")
        try:
            outputs = self.family.output_names(self.inner, False)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"encoder.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except SpecError as error:
            raise ValueError(f"encoder: {error}") from None
        if self.output is None and len(outputs) > 1:
            raise ValueError(f"output is missing; the encoder has {', '.join(outputs)}: name one")
        if self.output is not None and self.output not in outputs:
            raise ValueError(f"output: the encoder has {', '.join(outputs)}, not {self.output!r}")
        return self

    @property
    def family(self) -> Family:
        """The family of the encoder before the projection."""
        return family(self.encoder["kind"])

    @property
    def inner(self) -> EncoderOptions:
        """The options of the encoder before the projection."""
        own = {name: value for name, value in self.encoder.items() if name not in ("kind", "preset")}
        given = with_preset(self.encoder["kind"], self.encoder.get("preset"), own)
        return self.family.Options.model_validate(given | {"precision": given.get("precision", self.precision)})

    @property
    def chosen(self) -> str:
        """The output to project."""
        return self.output or self.family.output_names(self.inner, False)[0]

    def values(self) -> dict[str, Any]:
        """Return the values, including those of the wrapped encoder; the matrices are in the fingerprint."""
        encoder = {"kind": self.encoder["kind"], "revision": self.family.REVISION, **self.inner.values()}
        return super().values() | {"output": self.chosen, "encoder": encoder}


class Projected(Family):
    """One output in a space of its own, without text support."""

    kind = "pca"
    Options: ClassVar[type[EncoderOptions]] = PcaOptions

    def modality(self, options: PcaOptions) -> Modality:
        """Return the type of input of the encoder before the projection."""
        return options.family.modality(options.inner)

    def output_names(self, options: PcaOptions, text: bool) -> tuple[str, ...]:
        """Return the projected output."""
        return (options.chosen,)

    def wrapped(self, options: PcaOptions) -> Family | None:
        """Return the encoder before the projection."""
        return options.family

    def located(self, options: PcaOptions, base: Path) -> PcaOptions:
        """Return the options with paths resolved, including those of the encoder before the projection."""
        inner = options.family.located(options.inner, base)
        encoder = {"kind": options.encoder["kind"]} | inner.model_dump(exclude_unset=True)
        if "precision" not in options.encoder:
            del encoder["precision"]  # replaced by that of the projected encoder, which may differ
        return options.model_copy(update={"path": beside(base, options.path), "encoder": encoder})

    def fingerprint(self, options: PcaOptions) -> dict[str, str]:
        """Return the hashes of the encoder's weights and of the matrices."""
        path = Path(options.path).expanduser()
        if path.is_dir():
            matrices = {f"pca/{file.name}": sha256_of(file) for file in sorted(path.glob("*.npy"))}
        else:
            matrices = {PCA_FILE: sha256_of(path)}
        return options.family.fingerprint(options.inner) | matrices

    def foreign_bytes(self, options: PcaOptions) -> int | None:
        """Return the bytes of the files of the encoder before the projection."""
        return options.family.foreign_bytes(options.inner)

    def prepare(self, options: PcaOptions, folder: Path, text: PreparedText | None) -> ModelCard:
        """Prepare the wrapped encoder in a subfolder; see ``Family.prepare``."""
        inside = folder / ENCODER_FOLDER
        inside.mkdir()
        before = options.family.prepare(options.inner, inside, None)
        pca = load_pca(Path(options.path).expanduser(), components=options.components, rows=options.rows)
        output = before.outputs[options.chosen]
        if pca.width != output.dim:
            raise SpecError(
                f"{options.path} projects vectors of {pca.width} numbers; output {options.chosen!r} of encoder kind "
                f"{before.kind!r} has {output.dim}. `cliploom fit-pca` learns matrices from it."
            )
        save_pca(folder / PCA_FILE, pca)
        (inside / CARD_FILE).write_text(json.dumps(before.to_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        name = digest_of([self.fingerprint(options), options.values()])[:SHORT]
        return ModelCard(
            kind=self.kind,
            digest="",
            modality=before.modality,
            precision=before.precision,
            outputs={options.chosen: Output(dim=pca.components, space=f"{output.space}/pca/{name}")},
            preprocess=before.preprocess,
            clip_frames=before.clip_frames,
            sources=self.fingerprint(options),
            agreement={key: value for key, value in before.agreement.items() if key == options.chosen},
        )

    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        """Open the wrapped encoder, and the matrices."""
        inside = folder / ENCODER_FOLDER
        before = read_card(inside)
        return ProjectedEncoder(
            family(before.kind).open(inside, before, threads), next(iter(card.outputs)), load_pca(folder / PCA_FILE)
        )


@dataclass(frozen=True)
class ProjectedEncoder:
    """An opened encoder with a projection of one of its outputs."""

    encoder: Encoder
    output: str
    pca: Pca

    def encode(self, batch: Sequence[Any], report: EncodeReport | None = None) -> list[Row | EncodeError]:
        """See ``Encoder.encode``."""
        return [
            {self.output: self._project(row[self.output])} if isinstance(row, dict) else row
            for row in as_results(self.encoder.encode(batch, report), len(batch))
        ]

    def _project(self, vector: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        # One vector at a time: a matrix product rounds depending on the batch size, and vectors must not.
        return self.pca.apply(vector)

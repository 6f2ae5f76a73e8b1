"""Any sentence-transformers model, converted once; workers need neither that library nor PyTorch."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cliploom.schemas.errors import CliploomError, MissingExtraError
from cliploom.schemas.models import Modality, ModelCard, Output
from cliploom.transforms.encoders.base import Encoder, EncoderOptions, Family, PreparedText
from cliploom.transforms.encoders.hub import hub_folder
from cliploom.transforms.encoders.weights import beside, sha256_of

OUTPUT = "embedding"
# files that a model's vectors may depend on; pickled weights (.bin) are never read
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja")
_OTHER_FORMATS = ("onnx", "openvino")


class SentenceTransformerOptions(EncoderOptions):
    """Options of ``sentence_transformer``.

    Attributes:
        model: a folder, or a name on the Hugging Face hub.
        revision: the commit or tag of a model on the hub; without one, the vectors follow the hub's newest version.
        prompt: the name of the model's own prompt for stored sentences; by default that of the model, usually none.
        query_prompt: the same for queries.
    """

    VALUE_FREE: ClassVar[frozenset[str]] = frozenset({"model", "revision"})
    model: str
    revision: str | None = None
    prompt: str | None = None
    query_prompt: str | None = None


class SentenceTransformer(Family):
    """The output ``embedding``, equal to ``SentenceTransformer(model).encode``."""

    kind = "sentence_transformer"
    Options = SentenceTransformerOptions

    def modality(self, options: SentenceTransformerOptions) -> Modality:
        """Return sentences."""
        return "text"

    def output_names(self, options: SentenceTransformerOptions, text: bool) -> tuple[str, ...]:
        """Return the one output."""
        return (OUTPUT,)

    def located(self, options: SentenceTransformerOptions, base: Path) -> SentenceTransformerOptions:
        """Return the folder resolved against the spec's; names on the hub are unchanged."""
        folder = beside(base, options.model)
        return options.model_copy(update={"model": folder}) if Path(folder).is_dir() else options

    def fingerprint(self, options: SentenceTransformerOptions) -> dict[str, str]:
        """Return the hashes of all relevant files of the model."""
        folder = model_folder(options)
        return {name: sha256_of(folder / name) for name in _model_files(folder)}

    def foreign_bytes(self, options: SentenceTransformerOptions) -> int:
        """Return the bytes of all relevant files of the model."""
        folder = model_folder(options)
        return sum((folder / name).stat().st_size for name in _model_files(folder))

    def prepare(self, options: SentenceTransformerOptions, folder: Path, text: PreparedText | None) -> ModelCard:
        """Trace and convert the model; see ``Family.prepare``.

        Raises:
            MissingExtraError: sentence-transformers is not installed.
        """
        if importlib.util.find_spec("sentence_transformers") is None:
            raise MissingExtraError("text", f"Preparing the encoder '{self.kind}'")
        from cliploom.transforms.encoders.sentence_transformer_convert import convert
        from cliploom.transforms.encoders.text import TEXT_GRAPH

        converted = convert(model_folder(options), folder, OUTPUT, options.prompt, options.query_prompt)
        space = f"{self.kind}/{_identity(self.fingerprint(options))}"
        card = self.card(options, {OUTPUT: Output(dim=converted.dim, space=space, text=True)}, text_tower=TEXT_GRAPH)
        return replace(card, agreement={OUTPUT: converted.agreement(folder, options.precision)})

    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        """Compile the graph."""
        from cliploom.transforms.encoders.text import TextEncoder

        return TextEncoder(folder, card, threads)


def model_folder(options: SentenceTransformerOptions) -> Path:
    """Return the local folder of the model; a name is looked up in the Hugging Face cache, else downloaded.

    Raises:
        CliploomError: it is neither a model folder nor available.
    """
    local = Path(options.model).expanduser()
    if local.is_dir():
        if not _model_files(local):
            raise CliploomError(f"The folder '{options.model}' holds no .safetensors model; give the folder that does.")
        return local.resolve()
    patterns = [*_FILES, *(f"*/{pattern}" for pattern in _FILES)]
    return hub_folder("sentence-transformers", options.model, options.revision, patterns)


def _model_files(folder: Path) -> list[str]:
    """Return the relative names of the relevant files, sorted; empty if there are no weights."""
    found = {
        path.relative_to(folder).as_posix()
        for pattern in _FILES
        for path in folder.rglob(pattern)
        if path.relative_to(folder).parts[0] not in _OTHER_FORMATS
    }
    return sorted(found) if any(name.endswith(".safetensors") for name in found) else []


def _identity(fingerprint: dict[str, str]) -> str:
    from cliploom.schemas.digests import SHORT, digest_of

    return digest_of(fingerprint)[:SHORT]

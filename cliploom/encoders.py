"""What a custom encoder is made of: extend ``Family`` and offer it by the entry point group ``cliploom.encoders``.

docs/encoders.md has complete examples.
"""

from cliploom.schemas.errors import EncodeError
from cliploom.schemas.media import Preprocess
from cliploom.schemas.models import ModelCard, Output
from cliploom.transforms.encoders.base import Encoder, EncodeReport, EncoderOptions, Family

__all__ = ["EncodeError", "EncodeReport", "Encoder", "EncoderOptions", "Family", "ModelCard", "Output", "Preprocess"]

"""Converts given texts to encoded ones: replacements, and prompts with class names."""

from __future__ import annotations

from collections.abc import Sequence

from cliploom.schemas.errors import SpecError
from cliploom.schemas.narrations import LabelText, TextRules

REVISION = 1

PLACE = "{label}"


def encoded_text(text: str, rules: TextRules) -> str:
    """Return the text for the encoder: each replacement in turn, literally, as in the Ego4D code.

    >>> from cliploom.schemas.narrations import EGO4D
    >>> encoded_text("#C C opens a door", EGO4D)
    'Camera wearer C opens a door'
    """
    for old, new in rules.replace:
        text = text.replace(old, new)
    return text


def count_tokens(text: str) -> int:
    """Return the number of pieces between single spaces, as counted by the Ego4D research code.

    >>> count_tokens("#C C opens a door")
    5
    """
    return text.count(" ") + 1


def label_texts(labels: Sequence[str], templates: Sequence[str]) -> list[LabelText]:
    """Return each label in each template, label by label.

    Args:
        labels: the class names, unchanged; two classes may share a name.
        templates: texts with ``{label}`` for the name, such as ``"The person in this video is doing {label}"``.

    >>> [t.text for t in label_texts(["yoga"], ["The person in this video is doing {label}"])]
    ['The person in this video is doing yoga']

    Raises:
        SpecError: a label is blank, a template lacks ``{label}``, or there are no labels or templates.
    """
    if not labels or not templates:
        raise SpecError("label texts need at least one label and one template; '{label}' gives just the name.")
    for number, label in enumerate(labels):
        if not label.strip():
            raise SpecError(f"label {number} is blank; name the class.")
        if "\0" in label:
            raise SpecError(f"label {number}, {label!r}, contains a NUL character; remove it.")
    for template in templates:
        if PLACE not in template:
            raise SpecError(f"the template {template!r} has no {PLACE}; write it where the class name goes.")
    return [
        LabelText(label_no, template_no, label, template.replace(PLACE, label))
        for label_no, label in enumerate(labels)
        for template_no, template in enumerate(templates)
    ]

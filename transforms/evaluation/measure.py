"""Runs an evaluation of any kind on a release."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cliploom.schemas.evaluations import Evaluation, RetrievalEvaluation, SimilarEvaluation, WordsEvaluation
from cliploom.schemas.release import Release
from cliploom.transforms.evaluation.results import Evaluated
from cliploom.transforms.store.object_store import ObjectStore


def measure(objects: ObjectStore, release: Release, node: Evaluation, name: str = "") -> Evaluated:
    """Run one evaluation on a release.

    Memory is bounded by the texts and blocks of scores; the feature's vectors are in a temporary file.

    Args:
        objects: the store.
        release: a published release, or the draft of one with its indexes.
        node: the evaluation with its files in the store (``cliploom.transforms.evaluation.truths.with_stored_truth``).
        name: the name of the evaluation in the spec, for messages.

    Raises:
        SpecError: there is nothing to measure.
    """
    with tempfile.TemporaryDirectory(prefix="cliploom-evaluate-") as folder:
        if isinstance(node, RetrievalEvaluation):
            from cliploom.transforms.evaluation.retrieval import evaluate_retrieval

            return evaluate_retrieval(objects, release, node, Path(folder), name)
        if isinstance(node, SimilarEvaluation):
            from cliploom.transforms.evaluation.similar import evaluate_similar

            return evaluate_similar(objects, release, node, Path(folder))
        if isinstance(node, WordsEvaluation):
            from cliploom.transforms.evaluation.words import evaluate_words

            return evaluate_words(objects, release, node, Path(folder), name)
        from cliploom.transforms.evaluation.predicted import evaluate_labels

        return evaluate_labels(objects, release, node)

"""Evaluates a release: retrieval by text, similar items, predicted labels; each with intervals and chance levels.

``truths`` finds the correct answers, ``gallery`` reads a feature's rows, ``retrieval``, ``similar`` and ``predicted``
measure, ``index_answers`` queries the release's index, ``results`` and ``picture`` format, ``measure`` selects by kind.
"""

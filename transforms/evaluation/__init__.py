"""Measuring a release: retrieval by text, items that look alike, predicted labels; each with intervals and chance.

``truths`` finds what is right, ``gallery`` lays out a feature's rows, ``retrieval``, ``similar`` and ``predicted``
measure, ``index_answers`` asks the release's index, ``results`` and ``picture`` show, ``measure`` chooses by kind.
"""

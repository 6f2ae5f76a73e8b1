"""Kinds of sources: what planning, workers and publishing need to know of each is one class, found by its kind.

``base`` says what a kind has to answer, ``registry`` finds it. docs/sources.md shows how to add one.
"""

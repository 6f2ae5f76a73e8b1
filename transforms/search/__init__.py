"""Queries to hits, over the indexes of a release."""

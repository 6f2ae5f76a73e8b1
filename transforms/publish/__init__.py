"""Turns finished parts into a release: assembly, tables, indexes, exports, and the row that publishes it."""

"""From finished parts to a release: assembly, tables, indexes, exports, the appended row."""

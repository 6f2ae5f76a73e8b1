"""The inputs of a run: lists the files of a source, and provides local copies of remote ones."""

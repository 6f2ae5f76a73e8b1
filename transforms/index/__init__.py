"""ANN indexes: build shards, search them, rank media by their rows, measure recall and verify."""

"""Planning: list the sources, find what changed, and pack the work into shards. Nothing is computed here."""

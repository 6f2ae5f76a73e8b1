"""What workers do before anything is published: probe inputs, compute shards, rewrite parts."""

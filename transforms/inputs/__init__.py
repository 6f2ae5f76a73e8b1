"""What a run starts from: which files a source has, where they lie, and local copies of those in buckets."""

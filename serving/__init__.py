"""The page server: search, watch and predict over published releases, read-only."""

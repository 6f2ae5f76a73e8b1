"""The read-only page server: search, watch and predict over published releases."""

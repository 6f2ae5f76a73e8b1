"""Check a store (verify) and remove what is no longer needed (vacuum)."""

"""Precomputed feature files: lists them, reads them, and computes the times of their rows."""

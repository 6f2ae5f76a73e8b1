"""Identifies a model file or folder without running or unpickling anything in it, and writes a spec that uses it."""

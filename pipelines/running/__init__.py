"""Executes a plan's Beam graphs and follows them until the release, or only previews them."""

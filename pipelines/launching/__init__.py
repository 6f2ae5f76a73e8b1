"""Beam runners and what every command that runs a graph needs: the target, the store, a name for the run."""

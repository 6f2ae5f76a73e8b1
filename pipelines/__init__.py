"""Orchestration: the command line, planning, building and running the Beam graph, training, and the demo."""

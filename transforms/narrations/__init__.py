"""Timed texts: reading them from their formats, choosing among them, and pairing them with clip features."""

"""Timed texts: reads them from their formats, selects among them, and pairs them with clip features."""

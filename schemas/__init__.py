"""Data models: the spec, the records that steps exchange, table schemas, digests and errors.

Nothing here reads a file (except specs), runs a model or depends on Beam; ``transforms`` and ``pipelines`` build on it.
"""

"""What things are: the spec, the records that flow, table schemas, digests and errors.

Nothing here reads a file, runs a model or knows Beam; ``transforms`` and ``pipelines`` build on it.
"""

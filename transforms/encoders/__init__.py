"""Encoders: models that turn pictures, clips or sentences into vectors.

``registry`` finds a family by its kind, ``prepare`` writes a model folder once on the launcher, ``registry.load`` opens
one on a worker, ``handlers`` wraps it for Beam's RunInference. ``base`` explains how to add an encoder.
"""

"""Exports: files for training code, made from parts. Kinds with a package of their own are there."""

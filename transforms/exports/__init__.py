"""Exports: files that training code reads, made from parts. Kinds with a room of their own stand there."""

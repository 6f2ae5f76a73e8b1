"""Trains, evaluates and applies small models over a store's features."""

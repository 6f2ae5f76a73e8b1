"""A release opened for reading: its tables, windows of clip features, pairs, views for trainers."""

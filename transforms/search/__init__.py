"""Search: from a query to hits, over the indexes of a release."""

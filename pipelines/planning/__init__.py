"""What is to be done: what the sources hold, what of it is new, packed as shards; nothing is computed here."""

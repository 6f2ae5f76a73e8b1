"""What keeps a store sound and small: verify and vacuum."""

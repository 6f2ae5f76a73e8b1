"""The command line: its commands, what they say of wrong ones, and what they print."""

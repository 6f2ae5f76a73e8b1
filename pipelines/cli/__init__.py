"""The command line: commands, usage errors and output."""

"""Command line: a table of commands, their flags, help and shell completion."""

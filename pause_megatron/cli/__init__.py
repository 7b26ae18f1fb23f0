"""The command line: subcommands and nothing else. Every command is a configuration class and a function taking it."""

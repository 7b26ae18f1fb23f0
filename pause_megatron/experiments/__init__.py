"""Experiments: many commands in one, resumable, each of them a command a person could have typed."""

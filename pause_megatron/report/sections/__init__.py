"""Sections of a report, one module each: its tables, its figures, and its sentences in the summary."""

"""Pause-token training of language models: from raw C4 text to a report on whether pausing helped.

Nothing heavy is imported here; see the README for the reading order of the packages below.
"""

__version__ = "0.1.0"

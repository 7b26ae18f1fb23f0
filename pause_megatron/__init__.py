"""Pause-token training of language models, from raw C4 text to a report on whether pausing helped.

Importing this package imports no other module. README.md lists the packages and a reading order.
"""

__version__ = "0.1.0"

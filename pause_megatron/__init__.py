"""Pause-token training of language models, from raw C4 text to a report on whether pausing helped.

Importing this package imports no library; it lets later imports of Megatron-core and DeepSpeed skip the compiler.
README.md lists the packages and a reading order.
"""

from pause_megatron.light_imports import lighten_imports

__version__ = "0.1.0"

lighten_imports()

#!/usr/bin/env python
"""What a dataset holds, for the eye: statistics, sequences and a histogram; see ``pause_megatron.preprocess``."""

from pause_megatron.cli.main import tool_main

if __name__ == "__main__":
    raise SystemExit(tool_main("inspect_dataset.py"))

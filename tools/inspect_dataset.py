#!/usr/bin/env python
"""Show statistics, sequences and histograms of a dataset; see ``pause_megatron.preprocess``."""

from pause_megatron.cli.main import tool_main

if __name__ == "__main__":
    raise SystemExit(tool_main("inspect_dataset.py"))

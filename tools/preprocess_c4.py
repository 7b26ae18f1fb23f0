#!/usr/bin/env python
"""Convert text to Megatron indexed datasets that contain pauses; see ``pause_megatron.preprocess``."""

from pause_megatron.cli.main import tool_main

if __name__ == "__main__":
    raise SystemExit(tool_main("preprocess_c4.py"))

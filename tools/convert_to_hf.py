#!/usr/bin/env python
"""A checkpoint of ``pause-megatron pretrain`` to a Hugging Face folder; see ``pause_megatron.conversion``."""

from pause_megatron.cli.main import tool_main

if __name__ == "__main__":
    raise SystemExit(tool_main("convert_to_hf.py"))

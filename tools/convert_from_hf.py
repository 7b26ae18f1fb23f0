#!/usr/bin/env python
"""A Hugging Face model to a checkpoint to pretrain from, with ``<pause>``; see ``pause_megatron.conversion``."""

from pause_megatron.cli.main import tool_main

if __name__ == "__main__":
    raise SystemExit(tool_main("convert_from_hf.py"))

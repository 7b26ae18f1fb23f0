#!/usr/bin/env python
"""Import a Hugging Face model as a checkpoint to pretrain from, with ``<pause>``; see ``docs/conversion.md``."""

from pause_megatron.cli.main import tool_main

if __name__ == "__main__":
    raise SystemExit(tool_main("convert_from_hf.py"))

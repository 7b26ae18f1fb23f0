#!/usr/bin/env python
"""Export a checkpoint of ``pause-megatron pretrain`` to a Hugging Face folder; see ``docs/conversion.md``."""

from pause_megatron.cli.main import tool_main

if __name__ == "__main__":
    raise SystemExit(tool_main("convert_to_hf.py"))

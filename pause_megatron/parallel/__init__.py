"""Processes: how they were launched, which groups they form, and what Megatron-core needs without CUDA."""

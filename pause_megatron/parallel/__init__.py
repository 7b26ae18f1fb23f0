"""Processes: launcher detection, process groups, heartbeats, and the CPU shims that Megatron-core needs."""

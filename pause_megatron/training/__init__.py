"""Pretraining: Megatron-core's schedules compute, DeepSpeed's engine owns precision, ZeRO and the optimizer."""

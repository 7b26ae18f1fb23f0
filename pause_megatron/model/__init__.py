"""The model: Megatron-core's GPT with our attention, norms and initial weights, and the names of its parameters."""

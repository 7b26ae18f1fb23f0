"""Model: Megatron-core's GPT with our attention, linear layers, norms, loss and initial weights."""

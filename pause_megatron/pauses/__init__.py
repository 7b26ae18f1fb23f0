"""Placement of pauses in pretraining data and in prompts, and the loss mask; plain numpy."""

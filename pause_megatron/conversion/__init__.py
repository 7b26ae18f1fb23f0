"""Conversion between checkpoints and Hugging Face folders, each checked by comparing the logits of both models."""

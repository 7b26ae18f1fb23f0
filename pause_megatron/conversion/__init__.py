"""The only bridge between Megatron's half and Hugging Face's: names and layouts, and the proof that both agree."""

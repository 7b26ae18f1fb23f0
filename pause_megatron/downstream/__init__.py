"""Tasks, finetuning, evaluation and generation with Hugging Face models, with pauses in every prompt."""

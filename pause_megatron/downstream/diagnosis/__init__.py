"""What a model does at its pauses: attention, logit lens, answers with other numbers of pauses, and the embedding.

Every measurement is made with forward passes over the prompts of a task with their correct answers.
"""

"""What a run costs before it runs: parameters, floating-point operations, memory and time, by formula, without torch.

Each formula describes this implementation, not transformers at large, and a test compares it with the real thing.
``docs/costs.md`` explains them.
"""

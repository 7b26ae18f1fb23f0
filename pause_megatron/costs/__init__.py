"""Costs of a run before it starts: parameters, floating-point operations, memory and time, by formula, without torch.

The formulas describe this implementation, not transformers in general; tests compare each with the real model.
``docs/costs.md`` explains them.
"""

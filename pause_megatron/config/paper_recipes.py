"""Recipes of the paper's finetuning, as presets ``TASK-1b`` and ``TASK-130m``."""

from typing import Any

_PAPER_RECIPES: dict[str, tuple[tuple[float, int, int, int], tuple[float, int, int, int]]] = {
    "squad": ((1e-4, 100, 10_000, 256), (1e-4, 400, 40_000, 16)),
    "gsm8k": ((1e-4, 200, 20_000, 16), (1e-4, 75, 7_500, 16)),
    "hellaswag": ((5e-6, 100, 1_000, 16), (1e-6, 100, 1_000, 16)),
    "piqa": ((1e-6, 50, 600, 32), (1e-6, 50, 600, 32)),
    "coqa": ((5e-5, 75, 3_500, 16), (1e-4, 75, 3_500, 16)),
    "commonsense_qa": ((5e-5, 100, 4_000, 16), (5e-5, 100, 6_000, 16)),
    "lambada": ((5e-5, 40, 2_800, 16), (5e-5, 40, 1_400, 16)),
    "web_questions": ((5e-4, 200, 2_000, 16), (5e-4, 200, 2_000, 16)),
    "natural_questions": ((1e-4, 100, 5_000, 256), (5e-4, 100, 5_000, 256)),
}
"""Tables 3 and 4 of Goyal et al. 2024: learning rate, warm-up steps, steps and batch, of the 1B and the 130M model."""
PAPER_PRESETS: dict[str, dict[str, Any]] = {
    f"{task}-{size}": dict(zip(("learning_rate", "warmup_steps", "steps", "batch_size"), recipe, strict=True))
    for task, recipes in _PAPER_RECIPES.items()
    for size, recipe in zip(("1b", "130m"), recipes, strict=True)
}
"""Preset to its settings of :class:`~pause_megatron.config.downstream.FinetuneConfig`."""

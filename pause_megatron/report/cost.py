"""What pauses cost at inference, by appendix I of Goyal et al. 2024, and what else that could buy.

Counted is the pass over the prefix: ``n`` tokens of prompt and M pauses through every layer. The answer is decoded
token by token, at a cost that pauses hardly change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pause_megatron.costs.flops import paper_layer_flops
from pause_megatron.report.ablations import finetuning_series
from pause_megatron.report.cells import Cell
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.records import Architecture
from pause_megatron.report.tables import Entry, Table, entries


@dataclass(frozen=True, kw_only=True)
class PauseCost:
    """The cost of some pauses after prompts of one length, in a model of one shape."""

    shape: Architecture
    prompt_tokens: float
    """Mean length of the prompts (tokens)."""
    num_pauses: int

    @property
    def ratio(self) -> float:
        """Cost of prompt and pauses over that of the prompt alone."""
        return self._layer(self.num_pauses) / self._layer(0)

    @property
    def equal_layers(self) -> float:
        """Layers that a model without pauses could have more at the same cost."""
        return self.shape.num_layers * (self.ratio - 1)

    @property
    def equal_heads(self) -> float:
        """Attention heads that every layer of a model without pauses could have more at the same cost."""
        more = self._layer(self.num_pauses) - self._layer(0)
        return more / (self._layer(0, heads=2) - self._layer(0, heads=1))

    def _layer(self, num_pauses: int, heads: int | None = None) -> float:
        return paper_layer_flops(
            num_tokens=round(self.prompt_tokens) + num_pauses,
            num_heads=self.shape.num_attention_heads if heads is None else heads,
            head_dim=self.shape.head_dim,
            hidden_size=self.shape.hidden_size,
        )


def cost_of(cell: Cell) -> PauseCost | None:
    """What the cell's pauses cost at inference; None where its results do not say the model's shape."""
    first = cell.evaluations[0]
    if first.architecture is None or not first.prompt_tokens or round(first.prompt_tokens) < 1:
        return None
    num_pauses = cell.setting.num_pauses_inf
    return PauseCost(shape=first.architecture, prompt_tokens=first.prompt_tokens, num_pauses=num_pauses)


def cost_series(task: TaskResult) -> dict[str, list[tuple[Cell, float]]]:
    """The points of ``finetuning_series`` with the cost ratio of each; empty where a cost is not known."""
    found = {}
    for label, cells in finetuning_series(task).items():
        costs = [cost_of(cell) for cell in cells]
        points = [(cell, cost.ratio) for cell, cost in zip(cells, costs, strict=True) if cost is not None]
        if len(points) == len(cells):
            found[label] = points
    return found


def cost_table(tasks: Sequence[TaskResult]) -> Table | None:
    """What each number of pauses costs on each task; None where no result says its model's shape."""
    costs: dict[tuple[str, int], PauseCost] = {}
    for task in tasks:
        for cell in sorted(task.cells, key=lambda cell: cell.setting.num_pauses_inf):
            cost = cost_of(cell)
            if cost is not None and cost.num_pauses:
                costs.setdefault((task.name, cost.num_pauses), cost)
    if not costs:
        return None
    return Table(
        name="cost",
        caption="The pass over prompt and pauses against that over the prompt alone, in multiplications (Goyal et al."
        " 2024, appendix I), and what a model without pauses could have instead at that cost: more layers, or more"
        " attention heads in every layer.",
        columns=("Task", "Prompt tokens, mean", "Pauses", "Cost", "Layers instead", "Heads instead"),
        rows=tuple((Entry(text=task), *entries(*_texts(cost))) for (task, _), cost in costs.items()),
    )


def _texts(cost: PauseCost) -> tuple[str, ...]:
    return (
        f"{cost.prompt_tokens:.1f}",
        str(cost.num_pauses),
        f"x {cost.ratio:.2f}",
        f"{cost.equal_layers:.2g} (of {cost.shape.num_layers})",
        f"{cost.equal_heads:.2g} (of {cost.shape.num_attention_heads})",
    )

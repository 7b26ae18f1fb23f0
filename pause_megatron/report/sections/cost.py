"""Cost of pauses at inference (Goyal et al. 2024, appendix I), and the larger models that the same cost would allow.

The cost is that of one forward pass over the prefix, the n tokens of a prompt and M pauses, through all layers. It does
not include decoding the answer, which pauses hardly change. Placements with several runs of pauses are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pause_megatron.costs.flops import paper_layer_flops
from pause_megatron.records.evaluation import Architecture
from pause_megatron.report.elements import WHISKERS, Figure, Section, Table, text_cells
from pause_megatron.report.measurements import Measurement, TaskResult
from pause_megatron.report.sections.pauses import figures_over_finetuning

SEVERAL_RUNS = ("every", "after-marker")
"""Placements whose number of pauses is not that of the prompt."""


@dataclass(frozen=True, kw_only=True)
class PauseCost:
    """Cost of pauses after prompts of one length, in a model of one shape."""

    shape: Architecture
    prompt_tokens: float
    """Mean length of the prompts, in tokens."""
    num_pauses: int

    @property
    def ratio(self) -> float:
        """Cost of prompt and pauses over that of the prompt."""
        return self._layer(self.num_pauses) / self._layer(0)

    @property
    def equal_layers(self) -> float:
        """Additional layers of a model without pauses at the same cost."""
        return self.shape.num_layers * (self.ratio - 1)

    @property
    def equal_heads(self) -> float:
        """Additional attention heads in every layer of a model without pauses at the same cost."""
        more = self._layer(self.num_pauses) - self._layer(0)
        return more / (self._layer(0, heads=2) - self._layer(0, heads=1))

    def _layer(self, num_pauses: int, heads: int | None = None) -> float:
        return paper_layer_flops(
            num_tokens=max(1, round(self.prompt_tokens)) + num_pauses,
            num_heads=self.shape.num_attention_heads if heads is None else heads,
            head_dim=self.shape.head_dim,
            hidden_size=self.shape.hidden_size,
        )


def cost_section(tasks: Sequence[TaskResult]) -> Section:
    """Build the section; it is empty if no model was evaluated with pauses."""
    return Section(
        anchor="cost", heading="At equal cost", tables=(cost_table(tasks),), figures=tuple(cost_figures(tasks))
    )


def cost_of(measurement: Measurement) -> PauseCost:
    """Return the cost of a measurement's pauses."""
    first = measurement.results[0].record
    num_pauses = measurement.setting.num_pauses_inf
    return PauseCost(shape=first.architecture, prompt_tokens=first.prompt_tokens, num_pauses=num_pauses)


def cost_figures(tasks: Sequence[TaskResult]) -> list[Figure]:
    """Draw score against cost, for each task with models finetuned with several M_ft."""
    caption = f"M_inf = M_ft; points above each other have the same cost. {WHISKERS}"
    x_label = "Cost of the prefix, without pauses = 1"
    return figures_over_finetuning(tasks, "cost", caption, x_label, lambda one: cost_of(one).ratio)


def cost_table(tasks: Sequence[TaskResult]) -> Table:
    """Tabulate the cost of each number of pauses on each task."""
    costs: dict[tuple[str, int, Architecture], PauseCost] = {}
    for task in tasks:
        for measurement in sorted(task.measurements, key=lambda measurement: measurement.setting.num_pauses_inf):
            if measurement.setting.num_pauses_inf and measurement.setting.placement not in SEVERAL_RUNS:
                cost = cost_of(measurement)
                costs.setdefault((task.name, cost.num_pauses, cost.shape), cost)
    return Table(
        name="cost",
        caption="Multiplications of the forward pass over prompt and pauses, relative to the prompt only (Goyal et al."
        " 2024, appendix I), and the size of a model without pauses at that cost: additional layers, or additional"
        " attention heads in every layer.",
        columns=("Task", "Prompt tokens, mean", "Pauses", "Cost", "Layers instead", "Heads instead"),
        rows=tuple(
            text_cells(
                task,
                f"{cost.prompt_tokens:.1f}",
                str(cost.num_pauses),
                f"x {cost.ratio:.2f}",
                f"{cost.equal_layers:.2g} (of {cost.shape.num_layers})",
                f"{cost.equal_heads:.2g} (of {cost.shape.num_attention_heads})",
            )
            for (task, *_), cost in costs.items()
        ),
    )

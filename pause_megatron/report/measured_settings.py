"""Setting of a measurement: everything but the seeds that identifies it, such as the numbers of pauses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.variants import VARIANTS, pretrained_name
from pause_megatron.report.collect import EvaluationResult

MODELS = (*VARIANTS, "stdpt", "pausept")  # order of a report's rows: the variants, then models that were not finetuned


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything but the seeds of pretraining and finetuning that identifies a measurement."""

    task: str
    """Task with its wording of prompts, such as "gsm8k (5-shot)"."""
    model: str
    """A variant, or for a model that was not finetuned "stdpt", "pausept" or "other"."""
    pretrained: str = ""
    """Name of the pretrained model; empty if the report has only one for this variant."""
    num_pauses_ft: int | None
    num_pauses_inf: int
    prefix_attention: str
    min_num_pauses_ft: int | None
    """The smallest M_ft if it was drawn for each example; None if it was fixed."""
    num_pauses_pt: int = 0
    """Pauses after each token in pretraining, for a model that was not finetuned."""
    placement_ft: str
    """Placement of the pauses in finetuning; "every" for a model that was only pretrained, with pauses after every
    token; "append" without pauses."""
    placement: str
    """Placement of the pauses at inference; ``placement_ft`` without pauses."""
    filler: str | None
    """Text in place of the pauses at inference; None for ``<pause>``. ``filler_ft`` without pauses."""
    filler_ft: str | None = None
    """Text in place of the pauses in finetuning, or in pretraining for a model that was not finetuned."""
    repeats: bool = False
    """Whether pauses at inference are the token before them again; ``repeats_ft`` without pauses."""
    repeats_ft: bool = False
    """Whether pauses in finetuning were the token before them again; ``repeats`` for a model that was not finetuned."""
    hint_weight: float | None = None
    """Weight of the loss at the pauses in finetuning; None without that loss."""

    @staticmethod
    def of(result: EvaluationResult) -> Setting:
        """The setting of ``result``."""
        record = result.record
        finetuning = record.finetuning
        model = record.variant
        if model is None:
            model = "other" if record.pretraining is None else pretrained_name(record.pretraining.pauses)
        pretraining = None if finetuning else record.pretraining
        num_pauses_pt = (pretraining.pauses_per_token or 0) if pretraining else 0
        placement_ft = finetuning.pause_placement if finetuning and record.num_pauses_ft else "append"
        placement_ft = "every" if num_pauses_pt else placement_ft
        filler_ft, repeats_ft = _trained_inputs(record, placement_ft)
        return Setting(
            task=record.task_label,
            model=model,
            num_pauses_ft=record.num_pauses_ft,
            num_pauses_inf=record.num_pauses_inf,
            prefix_attention=record.prefix_attention,
            min_num_pauses_ft=finetuning.min_num_pauses_ft if finetuning else None,
            num_pauses_pt=num_pauses_pt,
            placement_ft=placement_ft,
            placement=record.pause_placement if record.num_pauses_inf else placement_ft,
            filler=record.filler if record.num_pauses_inf else filler_ft,
            filler_ft=filler_ft,
            repeats=record.pause_inputs == "repeat" if record.num_pauses_inf else repeats_ft,
            repeats_ft=repeats_ft,
            hint_weight=finetuning.hint_weight if finetuning else None,
        )

    @property
    def is_matched(self) -> bool:
        """Whether inference pauses as training did: M_inf = M_ft, same placement, same inputs at pauses."""
        return self == self.matched

    @property
    def has_own_inputs(self) -> bool:
        """Whether the inputs at pauses are those of training, and not, for example, a filler at inference only."""
        return (self.filler, self.repeats) == (self.filler_ft, self.repeats_ft)

    @property
    def matched(self) -> Setting:
        """The same model with pauses at inference as in finetuning, or in pretraining with pauses after every token.

        Pauses before unlikely tokens are in finetuning only.
        """
        number = self.num_pauses_pt if self.num_pauses_ft is None else self.num_pauses_ft
        if self.placement_ft == "before-unlikely":
            number = 0
        own: dict[str, Any] = {"placement": self.placement_ft, "filler": self.filler_ft, "repeats": self.repeats_ft}
        return replace(self, num_pauses_inf=number, **own)

    @property
    def order(self) -> tuple[int, str, str, int, int, int, float, str, str, str, str, bool, bool, str]:
        """Sort key within a task: the order of :data:`MODELS`, then M_ft and M_inf, then the rest."""
        index = MODELS.index(self.model) if self.model in MODELS else len(MODELS)
        smallest = -1 if self.min_num_pauses_ft is None else self.min_num_pauses_ft
        pauses = self.num_pauses_ft or 0, smallest, self.num_pauses_inf
        rest = self.placement_ft, self.placement, self.filler or "", self.prefix_attention
        inputs = self.repeats_ft, self.repeats, self.filler_ft or ""
        return index, self.model, self.pretrained, *pauses, self.hint_weight or 0, *rest, *inputs


def _trained_inputs(record: EvaluationRecord, placement: str) -> tuple[str | None, bool]:
    """Return the filler at the pauses of training, None for ``<pause>``, and whether they repeated tokens."""
    finetuning, pretraining = record.finetuning, record.pretraining
    repeats = record.pause_inputs == "repeat"
    if finetuning is None:
        return (pretraining.filler if pretraining and pretraining.pauses_per_token else None), repeats
    if not record.num_pauses_ft:
        return None, False
    # A finetuning that did not choose the inputs inherited those of pretraining.
    inherited = placement == "every" and pretraining is not None and pretraining.pause_inputs == "repeat" and repeats
    return finetuning.filler, finetuning.pause_inputs == "repeat" or (finetuning.pause_inputs is None and inherited)

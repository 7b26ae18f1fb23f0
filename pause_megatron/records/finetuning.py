"""Records of a finetuned model: ``finetune.json``, and the lines of its ``metrics.jsonl``."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from pause_megatron.records.conversion import PretrainingRecord


@dataclass(frozen=True, kw_only=True)
class FinetuneSummary:
    """How a model was finetuned, as evaluation results repeat it."""

    FORMAT: ClassVar[str] = "pause_megatron/finetune/1"

    format: str = FORMAT
    task: str
    num_pauses_ft: int
    """Pauses in each prompt (M_ft), after each token, after each marker, or before each unlikely token; the largest
    number if it was drawn for each example."""
    min_num_pauses_ft: int | None
    """The smallest number if it was drawn for each example; None if it was fixed."""
    pause_placement: Literal["append", "prepend", "before-marker", "after-marker", "every", "before-unlikely"]
    pause_marker: str | None
    """Text that the pauses were inserted before or after; None unless the placement is "before-marker" or
    "after-marker"."""
    pause_interval: int | None = None
    """Real tokens between two groups of pauses; None unless the placement is "every"."""
    unlikely_tokens: int | None = None
    """Tokens of each answer with pauses before them; None unless the placement is "before-unlikely"."""
    scoring_model: str | None = None
    """Folder of the model that found the least likely tokens; None for the model before its finetuning, and for other
    placements."""
    filler: str | None = None
    """Text inserted instead of ``<pause>``; None for ``<pause>``."""
    pause_inputs: Literal["pause", "repeat"] | None = None
    """"repeat" if pauses were the token before them again; None: as in pretraining, which only the placement "every"
    keeps, else ``<pause>`` or a filler."""
    prefix_attention: Literal["bidirectional", "causal"]
    hint_weight: float | None = None
    """Weight of the loss at the pauses, whose labels are the hints of the task; None without that loss."""
    halve_evaluation: bool
    """Whether every second document of the evaluation split was used for finetuning."""
    seed: int
    steps: int
    """Optimizer steps that were asked for."""
    kept_step: int
    """Step of the weights that were kept; below ``steps`` after early stopping."""
    final_loss: float
    """Last logged training loss of the targets, in nats."""
    model_name: str | None = None
    """Name of the pretrained model, as the user gave it or else of its run or folder; None in older files."""
    pretraining: PretrainingRecord | None
    """None for a model that was not exported from a checkpoint of this project."""
    variant: str
    """Variant, see :mod:`~pause_megatron.records.variants`."""
    device: str | None = None
    """Device that computed, such as "NVIDIA H100 80GB HBM3"; None in older files."""
    precision: str | None = None
    """Precision of the matrix products, such as "bf16"; None in older files."""
    versions: dict[str, str]
    """Package to installed version."""
    seconds: float
    """Wall time."""


@dataclass(frozen=True, kw_only=True)
class FinetuneRecord(FinetuneSummary):
    """``finetune.json``, the marker of a finetuned model's folder."""

    FILE: ClassVar[str] = "finetune.json"
    PRODUCER: ClassVar[str] = "pause-megatron finetune"

    config: dict[str, Any]
    """Resolved configuration."""
    files: dict[str, str] | None = None
    """Name to SHA-256 of the folder's files with weights, tokenizer and configuration; None in older folders."""

    def summary(self) -> FinetuneSummary:
        """Return the record without its configuration and checksums."""
        return FinetuneSummary(**{field.name: getattr(self, field.name) for field in fields(FinetuneSummary)})


@dataclass(frozen=True, kw_only=True)
class FinetuneStepRecord:
    """One logged step of finetuning."""

    KIND: ClassVar[str] = "train"

    step: int
    loss: float
    """Mean training loss of the targets since the previous record, in nats."""
    hint_loss: float | None = None
    """Mean training loss of the hints at the pauses since the previous record, in nats; None without hints."""
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class HeldOutLossRecord:
    """Loss on the examples that early stopping holds out."""

    KIND: ClassVar[str] = "validation"

    step: int
    loss: float
    """Mean loss, in nats."""


FINETUNE_METRICS_KINDS = (FinetuneStepRecord, HeldOutLossRecord)
"""Records of a finetuned model's ``metrics.jsonl``."""

"""Record of one evaluation: the result file of ``pause-megatron evaluate``."""

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pause_megatron.records.conversion import PretrainingRecord
from pause_megatron.records.finetuning import FinetuneSummary
from pause_megatron.records.generated_task import GeneratedTaskRecord

_LONGEST_SETTING = 40
"""Characters of a setting in a label."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of one evaluation."""

    value: float
    stderr: float | None
    """Standard error; None if lm-evaluation-harness gives none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One answered test item."""

    prompt: str
    pauses: int
    """Pauses in the prompt."""
    output: str
    """Answer of the model: the generated text, or the choice it scored highest."""
    target: str
    correct: float | None
    """Score of the primary metric, 0 to 1; None if it gives a sample no such score."""


@dataclass(frozen=True, kw_only=True)
class TaskDefinitionRecord:
    """Definition of a task that does not come with this project."""

    source: Literal["file", "include-path", "harness"]
    """A file of ``--task``, a folder of ``--include-path``, or lm-evaluation-harness."""
    sha256: str
    """Hash of its keys, and of the Python files next to it that it names."""
    output_type: str
    """Kind of request, such as ``multiple_choice``."""
    higher_is_better: bool | None
    """Direction of the primary metric; None if the definition does not give it."""


@dataclass(frozen=True, kw_only=True)
class PromptingRecord:
    """Wording of prompts, and generation settings, that are not those of a definition without examples."""

    num_fewshot: int
    """Solved examples before each prompt."""
    chat_template: bool
    """Whether the chat template of the model's tokenizer worded the prompts."""
    fewshot_as_multiturn: bool
    """Whether the examples were earlier turns of the chat."""
    system_instruction: str | None
    gen_kwargs: dict[str, Any]
    """Generation settings that override those of the definition."""

    @property
    def label(self) -> str:
        """The settings in words, for example "5-shot, chat template"."""
        shots = f"{self.num_fewshot}-shot" + (" in turns" if self.fewshot_as_multiturn else "")
        parts = [shots] if self.num_fewshot else []
        parts += ["chat template"] if self.chat_template else []
        parts += [f"system instruction {_shortened(self.system_instruction)}"] if self.system_instruction else []
        parts += [f"{name}={_shortened(str(value))}" for name, value in sorted(self.gen_kwargs.items())]
        return ", ".join(parts)


def _shortened(text: str) -> str:
    """Return ``text``; a long one is cut, and its hash tells it from others."""
    if len(text) <= _LONGEST_SETTING:
        return text
    return f"{text[:_LONGEST_SETTING]}… ({hashlib.sha256(text.encode()).hexdigest()[:6]})"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape of the evaluated model; the cost of a forward pass follows from it."""

    parameters: int
    non_embedding_parameters: int | None = None
    """Parameters without the embeddings of tokens and positions and without the output layer; None in older files."""
    num_layers: int
    num_attention_heads: int
    head_dim: int
    hidden_size: int


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """Result file of one model on one task with one number of pauses at inference."""

    FORMAT: ClassVar[str] = "pause_megatron/evaluation/1"
    PRODUCER: ClassVar[str] = "pause-megatron evaluate"

    format: str = FORMAT
    task: str
    """Name in its definition."""
    definition: TaskDefinitionRecord | None = None
    """None for a task of this project."""
    prompting: PromptingRecord | None = None
    """None for prompts without examples and chat template, generation as in the definition; and in older files."""
    variant: str | None
    """Variant, see :mod:`~pause_megatron.records.variants`; None for a model that is not finetuned."""
    num_pauses_ft: int | None
    """Pauses in finetuning (M_ft); None for a model that is not finetuned."""
    num_pauses_inf: int
    """Pauses at inference (M_inf) in each prompt, after each token, or after each marker."""
    pause_placement: Literal["append", "prepend", "before-marker", "after-marker", "every"]
    pause_marker: str | None
    """Text that the pauses were inserted before or after; None unless the placement is "before-marker" or
    "after-marker"."""
    pause_interval: int | None = None
    """Real tokens between two groups of pauses; None unless the placement is "every"."""
    filler: str | None
    """Text in place of ``<pause>``, as given to ``--filler`` or in finetuning; None for ``<pause>``."""
    pause_inputs: Literal["pause", "repeat"] | None = None
    """"repeat" if pauses were the token before them again; None:  ``<pause>`` or a filler."""
    prefix_attention: Literal["bidirectional", "causal"]
    halved: bool
    """Whether only the documents that were not used for finetuning were evaluated."""
    seed: int | None
    """Seed of the finetuning; None for a model that is not finetuned."""
    primary_metric: str
    """Key of ``metrics`` that variants are compared by."""
    metrics: dict[str, Metric]
    num_samples: int
    """Test items."""
    chance: float | None = None
    """Score of guessing: one divided by the number of choices, as a mean over the items; None if it is unknown."""
    prompt_tokens: float
    """Mean length of the prompts without pauses, in tokens."""
    bos_ids: tuple[int, ...] | None = None
    """Ids before every prompt: the beginning-of-text token of the model's tokenizer; None if it puts none."""
    samples: tuple[Sample, ...]
    architecture: Architecture
    finetuning: FinetuneSummary | None
    """None for a model that is not finetuned."""
    model_name: str | None = None
    """Name of the pretrained model, as the user gave it or else of its run or folder; None in older files."""
    pretraining: PretrainingRecord | None
    """None for a model that was not exported from a checkpoint of this project."""
    device: str | None = None
    """Device that computed, such as "NVIDIA H100 80GB HBM3"; None in older files."""
    precision: str | None = None
    """Precision of the matrix products, such as "bf16"; None in older files."""
    generated_task: GeneratedTaskRecord | None = None
    """Parameters and seed of the data; None for data that no ``generate-task`` wrote, and in older files."""
    config: dict[str, Any]
    """Resolved configuration."""
    versions: dict[str, str]
    """Package to installed version."""
    seconds: float
    """Wall time. Of several numbers of pauses, the first one's includes the work that the others share with it."""

    @property
    def task_label(self) -> str:
        """The task with its wording of prompts, for example "gsm8k (5-shot)": results of one label can be compared."""
        return f"{self.task} ({self.prompting.label})" if self.prompting else self.task

    @property
    def pretrained_model(self) -> str:
        """Name of the pretrained model, which its runs with other seeds share."""
        folder = str(self.config.get("model", ""))
        return self.model_name or (self.pretraining.model if self.pretraining else folder.rpartition("/")[2])

    @property
    def primary(self) -> Metric:
        """The metric that variants are compared by."""
        return self.metrics[self.primary_metric]

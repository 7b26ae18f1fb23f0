"""Configuration of finetuning, evaluation and generation, which share their pausing settings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError

PrefixAttention = Literal["bidirectional", "causal"]
"""How prompt and pauses attend to each other; the target always attends causally."""
PausePlacement = Literal["append", "prepend", "before-marker"]
"""Pauses after the prompt, before it, or inside it, before the last occurrence of a marker."""
Precision = Literal["fp32", "bf16"]
Fsdp = Literal["full_shard", "shard_grad_op"]
"""Whether FSDP frees the gathered weights after the forward pass, or keeps them until the backward pass."""
Schedule = Literal["linear", "cosine", "constant"]

NUMBER_FIELD = "{num_pauses_inf}"
"""Part of ``--output`` of ``evaluate`` that becomes the number of pauses, e.g. ``parity-inf{num_pauses_inf}.json``."""

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
_PAPER_PRESETS: dict[str, dict[str, Any]] = {
    f"{task}-{size}": dict(zip(("learning_rate", "warmup_steps", "steps", "batch_size"), recipe, strict=True))
    for task, recipes in _PAPER_RECIPES.items()
    for size, recipe in zip(("1b", "130m"), recipes, strict=True)
}


def pause_range(num_pauses_ft: int | str) -> tuple[int | None, int]:
    """The fewest and the most pauses that ``num_pauses_ft`` (tokens, or a range such as 0..50) asks for; the fewest is
    ``None`` for a fixed number.

    Raises :class:`UserError` for what is neither.
    """
    fewest, dots, most = str(num_pauses_ft).partition("..")
    ends = (fewest, most) if dots else (fewest,)
    if not all(end.isdecimal() for end in ends) or (dots and int(fewest) > int(most)):
        raise UserError(f"--num-pauses-ft {num_pauses_ft}: expected a number of at least 0, or a range such as 0..50")
    return (int(fewest), int(most)) if dots else (None, int(fewest))


def _check_marker(placement: PausePlacement | None, marker: str | None) -> None:
    if marker is not None and placement not in (None, "before-marker"):
        raise UserError(
            f"--pause-marker {marker!r}: not used by --pause-placement {placement}; remove it, or give"
            " --pause-placement before-marker"
        )


def _words(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


@dataclass(frozen=True, kw_only=True)
class FinetunePausing:
    """Pauses in the prompts that a model is finetuned on."""

    num_pauses_ft: int | str = 10
    """Pauses in every prompt (tokens); 0 finetunes without pauses. The paper uses 10 or 50, depending on the task. A
    range such as 0..50 draws a number for each example, uniformly."""
    pause_placement: PausePlacement = "append"
    """Position of the pauses: after the prompt, before it, or before the last --pause-marker in it."""
    pause_marker: str | None = None
    """Text to put the pauses in front of, such as 'Answer:'; requires --pause-placement before-marker."""
    prefix_attention: PrefixAttention = "bidirectional"
    """Attention within prompt and pauses: in both directions, as in the paper, or causal."""

    def __post_init__(self) -> None:
        pause_range(self.num_pauses_ft)
        if self.pause_placement == "before-marker" and not self.pause_marker:
            raise UserError("--pause-placement before-marker: needs a marker; give --pause-marker, e.g. 'Answer:'")
        _check_marker(self.pause_placement, self.pause_marker)


@dataclass(frozen=True, kw_only=True)
class InferencePausing:
    """Pauses in the prompts of a trained model; None takes the setting that the model was finetuned with."""

    num_pauses_inf: int | tuple[int, ...] | None = None
    """Pauses in every prompt (tokens). By default as many as in finetuning, or 0 if the model is not finetuned.
    'evaluate' takes several numbers, for example 0 10 25."""
    pause_placement: PausePlacement | None = None
    """Position of the pauses: after the prompt, before it, or before the last --pause-marker in it. By default as in
    finetuning, or append if the model is not finetuned."""
    pause_marker: str | None = None
    """Text to put the pauses in front of, such as 'Answer:', if their placement is before-marker. By default as in
    finetuning."""
    filler: str | None = None
    """Token to use instead of <pause>, such as '.': a text that is one token, or a token id."""
    prefix_attention: PrefixAttention | None = None
    """Attention within prompt and pauses. By default as in finetuning, or causal if the model is not finetuned."""

    def __post_init__(self) -> None:
        for number in self.numbers:
            require_at_least(0, num_pauses_inf=number)
        if len(set(self.numbers)) < len(self.numbers):
            raise UserError(f"--num-pauses-inf {_words(self.numbers)}: a number repeats; give each number once")
        _check_marker(self.pause_placement, self.pause_marker)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of pauses that are set; empty if the model's finetuning decides."""
        given = self.num_pauses_inf
        return given if isinstance(given, tuple) else () if given is None else (given,)

    def only_number(self) -> int | None:
        """The only number of pauses; ``None`` if the model's finetuning decides.

        Raises :class:`UserError` if there are several.
        """
        if len(self.numbers) > 1:
            raise UserError(f"--num-pauses-inf {_words(self.numbers)}: only 'evaluate' takes several; give one number")
        return self.numbers[0] if self.numbers else None


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Finetune every weight of an exported model on a task, with pauses between prompt and target.

    The presets TASK-1b and TASK-130m are the paper's recipes. The defaults are the values that recur in Table 4 of
    Goyal et al. 2024 (130M); where the paper is silent (optimizer constants, decay) they are what Hugging Face's
    Trainer uses.
    """

    model: Path
    """Hugging Face folder to start from."""
    task: str
    """Name of a task definition."""
    output: Path
    """Folder to create."""
    data: Path | None = None
    """Folder with the task's own data, train.jsonl among it."""
    halve_evaluation: bool = False
    """Finetune on every second document of the evaluation split, and evaluate on the others: for data without a
    training split. LAMBADA has none anywhere, so there it is always done."""
    pausing: FinetunePausing = FinetunePausing()
    """Pauses in the prompts."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    schedule: Schedule = "linear"
    """Decay of the learning rate to zero after warm-up, or none."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    steps: int = 5000
    """Optimizer steps in all, warm-up included."""
    batch_size: int = 16
    """Examples in an optimizer step, on all processes together."""
    gradient_accumulation_steps: int = 1
    """Parts a batch is split into, to save memory; must divide the batch size, with the number of processes."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW, on matrices only."""
    adam_beta1: float = 0.9
    """Decay of AdamW's first moment."""
    adam_beta2: float = 0.999
    """Decay of AdamW's second moment."""
    clip_grad: float = 1.0
    """Largest gradient norm; 0 does not clip."""
    lora_rank: int = 0
    """Train low-rank additions of this rank to all matrices (LoRA, by the package peft) and the pause embedding instead
    of every weight; they are merged into the weights at the end. 0: every weight is trained, as in the paper."""
    precision: Precision = "fp32"
    """Arithmetic of forward and backward; weights are kept in fp32 either way, unless DeepSpeed keeps them."""
    deepspeed: Path | None = None
    """DeepSpeed JSON file: ZeRO stage, precision, offload (see ds_configs/)."""
    fsdp: Fsdp | None = None
    """Split weights, gradients and optimizer state over the processes by PyTorch's FSDP; shard_grad_op keeps gathered
    weights until backward, which is faster and takes more memory."""
    fsdp_config: Path | None = None
    """JSON file with more settings of FSDP, as Hugging Face's Trainer names them; with --fsdp."""
    seed: int = 0
    """Seed of the order of the examples and of dropout."""
    log_interval: int = 50
    """Steps between two lines of metrics.jsonl."""
    save_interval: int = 1000
    """Steps between two states an interrupted run can continue from, and between two looks of early stopping."""
    early_stopping_patience: int = 0
    """Stop when the loss on held-out examples has not fallen for this many looks at it, one every save_interval steps,
    and keep the weights of the best; 0: never, as in the paper."""
    held_out_examples: int = 256
    """Training examples that early stopping looks at instead of learning from them."""

    GROUPS: ClassVar[dict[str, str]] = {
        "model": "model and data",
        "learning_rate": "optimizer",
        "precision": "precision and sharding",
        "seed": "seed, logging and checkpoints",
    }
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        **_PAPER_PRESETS,
        # A model of some 100,000 parameters learning a generated task from scratch in about a minute on one core.
        "tiny": {
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "warmup_steps": 100,
            "steps": 2000,
            "batch_size": 64,
            "weight_decay": 0.01,
            "adam_beta2": 0.98,
        },
    }

    def __post_init__(self) -> None:
        require_at_least(0, warmup_steps=self.warmup_steps, seed=self.seed)
        require_at_least(0, weight_decay=self.weight_decay, clip_grad=self.clip_grad, lora_rank=self.lora_rank)
        require_at_least(1, steps=self.steps, batch_size=self.batch_size)
        require_at_least(1, log_interval=self.log_interval, save_interval=self.save_interval)
        require_at_least(1, gradient_accumulation_steps=self.gradient_accumulation_steps)
        if not self.learning_rate > 0:
            raise UserError(f"--learning-rate {self.learning_rate}: expected a positive number")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected a number in [0, 1)")
        if self.batch_size % self.gradient_accumulation_steps:
            raise UserError(
                f"--gradient-accumulation-steps {self.gradient_accumulation_steps} does not divide "
                f"--batch-size {self.batch_size}"
            )
        self._check_early_stopping()
        self._check_sharding()

    def _check_early_stopping(self) -> None:
        require_at_least(0, early_stopping_patience=self.early_stopping_patience)
        require_at_least(1, held_out_examples=self.held_out_examples)
        if self.early_stopping_patience and self.save_interval >= self.steps:
            raise UserError(
                f"--early-stopping-patience {self.early_stopping_patience}: --save-interval {self.save_interval} leaves"
                f" no look at the held-out loss before the last of {self.steps} steps"
            )
        if self.early_stopping_patience and (self.deepspeed or self.fsdp):
            flag = "--deepspeed" if self.deepspeed else "--fsdp"
            raise UserError(
                f"--early-stopping-patience {self.early_stopping_patience} with {flag}: split weights cannot go back to"
                f" the best ones; leave {flag} away, on any number of processes"
            )

    def _check_sharding(self) -> None:
        if self.deepspeed and self.fsdp:
            raise UserError(f"--deepspeed and --fsdp {self.fsdp} both split the work over the processes; give one")
        if self.fsdp_config and not self.fsdp:
            raise UserError(f"--fsdp-config {self.fsdp_config}: give --fsdp too")
        if self.lora_rank and (self.deepspeed or self.fsdp):
            flag = "--deepspeed" if self.deepspeed else "--fsdp"
            raise UserError(
                f"--lora-rank {self.lora_rank} with {flag}: the additions cannot be merged into weights that are split;"
                f" leave {flag} away, on any number of processes"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a model on a task through lm-evaluation-harness, with pauses between prompt and answer."""

    model: Path
    """Hugging Face folder, finetuned or not."""
    task: str
    """Name of a task definition."""
    output: Path
    """Result file to create (JSON)."""
    data: Path | None = None
    """Folder with the task's own data, its evaluation split (test.jsonl or validation.jsonl) among it."""
    halve_evaluation: bool | None = None
    """Evaluate only the documents that are not finetuned on when there is no training split; as in finetuning by
    default."""
    pausing: InferencePausing = InferencePausing()
    """Pauses in the prompts."""
    batch_size: int = 64
    """Prompts in a batch."""
    limit: int | None = None
    """Use only this many of the first test samples; all by default."""
    precision: Precision = "fp32"
    """Arithmetic and weights."""

    GROUPS: ClassVar[dict[str, str]] = {"model": "model and data", "batch_size": "evaluation"}

    def __post_init__(self) -> None:
        require_at_least(1, batch_size=self.batch_size)
        if self.limit is not None:
            require_at_least(1, limit=self.limit)
        numbers = self.pausing.numbers
        if NUMBER_FIELD in self.output.name and not numbers:
            raise UserError(f"--output {self.output}: {NUMBER_FIELD} needs a number; give --num-pauses-inf")
        if len(numbers) > 1 and NUMBER_FIELD not in self.output.name:
            raise UserError(
                f"--output {self.output}: one file for {len(numbers)} results; put {NUMBER_FIELD} into its name,"
                f" such as {self.output.stem}-inf{NUMBER_FIELD}{self.output.suffix}"
            )

    def each_number(self) -> list[EvaluateConfig]:
        """This configuration for each of its numbers of pauses by itself, with the name of that result's file."""
        return [
            dataclasses.replace(
                self,
                pausing=dataclasses.replace(self.pausing, num_pauses_inf=number),
                output=self.output.with_name(self.output.name.replace(NUMBER_FIELD, str(number))),
            )
            for number in self.pausing.numbers or (None,)
        ]


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Continue prompts after a number of pauses and print the continuations: the text of one, JSON lines of several."""

    model: Path
    """Hugging Face folder, finetuned or not."""
    prompt: tuple[str, ...]
    """Text to continue, which may be empty; several are continued as one batch."""
    pausing: InferencePausing = InferencePausing()
    """Pauses in the prompts."""
    max_new_tokens: int = 64
    """Tokens to generate at most."""
    temperature: float = 0.0
    """Sampling temperature; 0 always takes the likeliest token."""
    top_k: int = 0
    """Sample from this many of the likeliest tokens; 0 does not limit them."""
    top_p: float = 1.0
    """Sample from the likeliest tokens whose probabilities add up to this; 1 does not limit them."""
    num_beams: int = 1
    """Continuations that beam search keeps; 1 does not search."""
    seed: int = 0
    """Seed of sampling."""
    precision: Precision = "fp32"
    """Arithmetic and weights."""

    GROUPS: ClassVar[dict[str, str]] = {"model": "model and prompt", "max_new_tokens": "text"}

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UserError("--prompt: expected at least one text; '' continues nothing")
        require_at_least(1, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams)
        require_at_least(0, temperature=self.temperature, top_k=self.top_k, seed=self.seed)
        self.pausing.only_number()
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p}: expected a number above 0 and up to 1")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            flag = f"--top-k {self.top_k}" if self.top_k else f"--top-p {self.top_p}"
            raise UserError(f"{flag} limits sampling, which --temperature 0 does not do; give a temperature above 0")

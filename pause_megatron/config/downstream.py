"""Configuration of finetuning, evaluation and generation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pause_megatron.config.checks import require_at_least, require_fraction, require_hub_name, require_positive
from pause_megatron.config.paper_recipes import PAPER_PRESETS
from pause_megatron.config.parallel import DeviceChoice
from pause_megatron.config.pausing import FinetunePausing, InferencePausing
from pause_megatron.config.prompting import Prompting
from pause_megatron.config.task_definitions import require_task
from pause_megatron.errors import UserError

Precision = Literal["fp32", "bf16"]
Fsdp = Literal["full_shard", "shard_grad_op"]
"""Whether FSDP frees the gathered weights after the forward pass, or keeps them until the backward pass."""
Schedule = Literal["linear", "cosine", "constant"]
PauseInitialization = Literal["normal", "mean"]
"""Embedding of an added ``<pause>``: drawn from the normal distribution of the other embeddings, or their mean."""

NUMBER_FIELD = "{num_pauses_inf}"
"""Part of ``--output`` of ``evaluate`` that becomes the number of pauses, e.g. ``parity-inf{num_pauses_inf}.json``."""
TEXT_TASK = "text"
"""Task that measures the loss on held-out text."""

_LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE = 1e-4, 1e4
"""Beyond these, logits that are divided by the temperature can overflow, or are all equal."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Finetune an exported model on a task, with pauses between prompt and target.

    The presets TASK-1b and TASK-130m are the recipes of Goyal et al. 2024. The defaults are the most frequent values in
    its Table 4 (130M), and otherwise those of Hugging Face's Trainer.
    """

    model: Path
    """Hugging Face folder to start from, or the name of a model on the hub, such as HuggingFaceTB/SmolLM2-135M."""
    task: str
    """Name of a task, for example gsm8k; or its definition as FILE.yaml, in the format of lm-evaluation-harness."""
    output: Path
    """Folder to create."""
    include_path: Path | None = None
    """Folder with further task definitions, also in its subfolders (default: none)."""
    model_name: str | None = None
    """Name of the pretrained model in results and reports, which its pretraining runs with other seeds share (default:
    that of its pretraining, or else of its folder)."""
    add_pause: PauseInitialization | None = None
    """Add <pause> to the tokenizer and the embeddings of a model without it; its embedding is drawn from a normal
    distribution with mean and standard deviation of the others, or is their mean (default: do not add it)."""
    data: Path | None = None
    """Folder with train.jsonl of the task (default: the source that its definition names, such as the hub)."""
    halve_evaluation: bool = False
    """Finetune on every second document of the evaluation split and evaluate on the others, for data without a training
    split. Always on for LAMBADA, which has none."""
    apply_chat_template: bool = False
    """Word the prompts with the chat template of the model's tokenizer."""
    system_instruction: str | None = None
    """Text before every prompt, with a chat template the system's message (default: none)."""
    pausing: FinetunePausing = field(default_factory=FinetunePausing)
    learning_rate: float = 1e-4
    """Peak learning rate."""
    schedule: Schedule = "linear"
    """Decay of the learning rate to zero after warm-up; constant: none."""
    warmup_steps: int = 100
    """Linear warm-up (steps)."""
    steps: int = 5000
    """Optimizer steps, including warm-up."""
    batch_size: int = 16
    """Examples in an optimizer step, over all processes."""
    gradient_accumulation_steps: int = 1
    """Micro-batches of a batch, to save memory; this times the number of processes must divide the batch size."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW, only on matrices."""
    adam_beta1: float = 0.9
    """Decay of AdamW's first moment."""
    adam_beta2: float = 0.999
    """Decay of AdamW's second moment."""
    clip_grad: float = 1.0
    """Largest gradient norm; 0: no clipping."""
    lora_rank: int = 0
    """Rank of LoRA on all matrices; trains only these and the pause embedding, and merges them at the end. 0: train
    every weight, as in the paper."""
    precision: Precision = "fp32"
    """Precision of forward and backward pass; the weights stay in fp32 unless DeepSpeed holds them."""
    device: DeviceChoice = "auto"
    """Device of each process; auto: its own GPU, or the CPU if the machine has none. PAUSE_MEGATRON_DEVICE replaces
    auto."""
    deepspeed: Path | None = None
    """DeepSpeed JSON file with ZeRO stage, precision and offload, such as ds_configs/zero2_bf16.json (default: off)."""
    fsdp: Fsdp | None = None
    """Shard weights, gradients and optimizer state over the processes with PyTorch's FSDP (default: off); shard_grad_op
    keeps gathered weights until the backward pass, which is faster and takes more memory."""
    fsdp_config: Path | None = None
    """JSON file with further FSDP settings of the Trainer, such as cpu_offload (default: none); requires --fsdp."""
    dead_rank_timeout: float = 60.0
    """Heartbeat timeout in seconds: a process that is silent for longer counts as dead, and the others end with exit
    code 86. A process that crashed or was killed is noticed at once."""
    seed: int = 0
    """Seed of the order of the examples and of dropout."""
    log_interval: int = 50
    """Steps between two lines of metrics.jsonl."""
    report_to: tuple[str, ...] = ()
    """Programs that also get the metrics, by the Trainer's names, for example wandb or tensorboard (default: none).
    Event files of TensorBoard are in tensorboard/ next to the output; WANDB_PROJECT names the project of W&B."""
    save_interval: int = 1000
    """Steps between two checkpoints to resume from, and between two evaluations of early stopping."""
    early_stopping_patience: int = 0
    """Evaluations without a lower held-out loss before training stops and keeps the best weights; 0: no early stopping,
    as in the paper."""
    held_out_examples: int = 256
    """Training examples that early stopping evaluates and does not train on."""
    push_to_hub: str | None = None
    """Repository on the Hugging Face hub for the folder, as OWNER/NAME; a new one is private (default: no upload)."""

    @property
    def work_folder(self) -> Path:
        """Hidden folder next to the output that holds an unfinished run; removed when the output is complete."""
        return self.output.with_name(f".{self.output.name}.work")

    GROUPS: ClassVar[dict[str, str]] = {
        "model": "model and data",
        "learning_rate": "optimizer",
        "precision": "precision, device and sharding",
        "seed": "seed, logging and checkpoints",
    }
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        **PAPER_PRESETS,
        # A model of about 100,000 parameters learns a generated task from scratch in about a minute on one core.
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
        require_task(self.task, self.include_path)
        require_hub_name(push_to_hub=self.push_to_hub)
        if self.task == TEXT_TASK:
            raise UserError(f"--task {TEXT_TASK}: has no prompts to finetune on; evaluate it, or pretrain on the text")
        require_at_least(0, warmup_steps=self.warmup_steps, weight_decay=self.weight_decay, clip_grad=self.clip_grad)
        require_at_least(0, lora_rank=self.lora_rank, early_stopping_patience=self.early_stopping_patience)
        require_at_least(0, seed=self.seed)
        require_at_least(1, steps=self.steps, batch_size=self.batch_size, held_out_examples=self.held_out_examples)
        require_at_least(1, log_interval=self.log_interval, save_interval=self.save_interval)
        require_at_least(1, gradient_accumulation_steps=self.gradient_accumulation_steps)
        require_fraction(adam_beta1=self.adam_beta1, adam_beta2=self.adam_beta2)
        require_positive(learning_rate=self.learning_rate, dead_rank_timeout=self.dead_rank_timeout)
        if self.batch_size % self.gradient_accumulation_steps:
            raise UserError(
                f"--gradient-accumulation-steps {self.gradient_accumulation_steps}: must divide --batch-size"
                f" {self.batch_size}"
            )
        if self.early_stopping_patience and self.save_interval >= self.steps:
            raise UserError(
                f"--early-stopping-patience {self.early_stopping_patience}: no evaluation before the last of"
                f" {self.steps} steps; lower --save-interval {self.save_interval}"
            )
        if self.fsdp_config and not self.fsdp:
            raise UserError(f"--fsdp-config {self.fsdp_config}: not used without --fsdp; give --fsdp too")
        if self.deepspeed and self.fsdp:
            raise UserError(
                f"--deepspeed {self.deepspeed}: cannot be combined with --fsdp {self.fsdp}; give one of them"
            )
        sharding = "--deepspeed" if self.deepspeed else "--fsdp" if self.fsdp else None
        for name in ("lora_rank", "early_stopping_patience"):
            if sharding and getattr(self, name):
                flag = f"--{name.replace('_', '-')} {getattr(self, name)}"
                raise UserError(f"{flag}: cannot change sharded weights; remove {sharding}")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a model on a task with lm-evaluation-harness, with pauses between prompt and answer."""

    model: Path
    """Hugging Face folder, or the name of a model on the hub; finetuned or not."""
    task: str
    """Name of a task, for example gsm8k; or its definition as FILE.yaml, in the format of lm-evaluation-harness."""
    output: Path
    """Result file to create (JSON). With several numbers of pauses, its name must contain {num_pauses_inf}, for example
    results/gsm8k-inf{num_pauses_inf}.json."""
    include_path: Path | None = None
    """Folder with further task definitions, also in its subfolders (default: none)."""
    data: Path | None = None
    """Folder with test.jsonl or validation.jsonl of the task (default: the source that its definition names, such as
    the hub). For the task text also a dataset of pause-megatron preprocess, scored as validation in pretraining scores
    it."""
    halve_evaluation: bool | None = None
    """Evaluate only the documents that finetuning with --halve-evaluation leaves out (default: as in finetuning)."""
    pausing: InferencePausing = field(default_factory=InferencePausing)
    prompting: Prompting = field(default_factory=Prompting)
    batch_size: int = 64
    """Prompts in a batch."""
    limit: int | None = None
    """Number of test samples to evaluate, from the first (default: all)."""
    precision: Precision = "fp32"
    """Precision of weights and forward pass."""
    device: DeviceChoice = "auto"
    """Device; auto: the first GPU, or the CPU if the machine has none. PAUSE_MEGATRON_DEVICE replaces auto."""

    GROUPS: ClassVar[dict[str, str]] = {"model": "model and data", "batch_size": "evaluation"}

    def __post_init__(self) -> None:
        require_task(self.task, self.include_path)
        require_at_least(1, batch_size=self.batch_size, limit=1 if self.limit is None else self.limit)
        numbers, has_field = self.pausing.numbers, NUMBER_FIELD in self.output.name
        if has_field and not numbers:
            raise UserError(f"--output {self.output}: {NUMBER_FIELD} needs a number; give --num-pauses-inf")
        if len(numbers) > 1 and not has_field:
            example = f"{self.output.stem}-inf{NUMBER_FIELD}{self.output.suffix}"
            raise UserError(f"--output {self.output}: one file for {len(numbers)} results; name it like {example}")

    def each_number(self) -> list[EvaluateConfig]:
        """Return one configuration for each number of pauses, with its own result file."""
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
    """Continue prompts after their pauses, and print the text of one prompt, or JSON lines for several."""

    model: Path
    """Hugging Face folder, or the name of a model on the hub; finetuned or not."""
    prompt: tuple[str, ...]
    """Texts to continue, as one batch; a text may be empty."""
    pausing: InferencePausing = field(default_factory=InferencePausing)
    max_new_tokens: int = 64
    """Largest number of tokens to generate."""
    temperature: float = 0.0
    """Sampling temperature; 0: take the likeliest token."""
    top_k: int = 0
    """Number of likeliest tokens to sample from; 0: all."""
    top_p: float = 1.0
    """Probability that the likeliest tokens to sample from add up to; 1: all tokens."""
    num_beams: int = 1
    """Beams of beam search; 1: no beam search."""
    seed: int = 0
    """Seed of sampling."""
    precision: Precision = "fp32"
    """Precision of weights and forward pass."""
    device: DeviceChoice = "auto"
    """Device; auto: the first GPU, or the CPU if the machine has none. PAUSE_MEGATRON_DEVICE replaces auto."""

    GROUPS: ClassVar[dict[str, str]] = {"model": "model and prompt", "max_new_tokens": "text"}

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UserError("--prompt: no text; give at least one, for example ''")
        for number, text in enumerate(self.prompt, start=1):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(f"--prompt: text {number} is not valid Unicode ({error.reason}); correct it") from error
        require_at_least(1, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams)
        require_at_least(0, temperature=self.temperature, top_k=self.top_k, seed=self.seed)
        self.pausing.only_number()
        if self.temperature and not _LOWEST_TEMPERATURE <= self.temperature <= _HIGHEST_TEMPERATURE:
            raise UserError(
                f"--temperature {self.temperature}: must be 0, or from {_LOWEST_TEMPERATURE} to {_HIGHEST_TEMPERATURE}"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p}: must be above 0 and at most 1")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            flag = f"--top-k {self.top_k}" if self.top_k else f"--top-p {self.top_p}"
            raise UserError(f"{flag}: has no effect with --temperature 0; give a higher temperature")

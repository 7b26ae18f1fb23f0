"""Finetuning: an exported model becomes a finetuned one, with M_ft pauses between every prompt and its target.

Stock pieces only: Hugging Face's Trainer, the model's own loss. The collator decides what is seen and what is learned.
Every weight is updated, or by LoRA low-rank additions to them. The target is followed by end-of-document, which is
learned too, so that decoding stops.
An interrupted run leaves a hidden folder beside the output and continues from it; the output appears whole or not at
all. Of several processes each computes a part of every batch, and rank 0 writes.
"""

from __future__ import annotations

import random
import shutil
import time
import traceback
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset, Subset
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from pause_megatron import log
from pause_megatron.atomic import new_folder, write_json
from pause_megatron.config.deepspeed import TORCH_DTYPES
from pause_megatron.config.downstream import FinetuneConfig, pause_range
from pause_megatron.config.serialize import to_flat
from pause_megatron.downstream.lora import with_lora
from pause_megatron.downstream.model_folder import (
    FINETUNE_FORMAT,
    FINETUNE_MARKER,
    ModelFolder,
    load_model_folder,
)
from pause_megatron.downstream.pausing import finetuning_pausing
from pause_megatron.downstream.processes import leave_processes, process_arguments, whole_weights
from pause_megatron.downstream.tasks import load_task
from pause_megatron.downstream.training_examples import PauseCollator, PausedExamples
from pause_megatron.downstream.work_folder import METRICS, MetricsWriter, WorkFolder
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import PausedExample
from pause_megatron.versions import versions


def finetune(config: FinetuneConfig) -> None:
    """Finetune ``config.model`` on ``config.task`` and write ``config.output``; each process of a launcher calls this.

    Raises :class:`UserError` for an output that exists, a model without ``<pause>`` that is to pause, a batch that the
    processes cannot share, and whatever loading the task and the model and placing the pauses refuse.
    """
    try:
        _finetune(config)
    except UserError as error:  # only these: others may leave an exchange unfinished, which leaving might wait for
        traceback.clear_frames(error.__traceback__)  # they hold the Trainer
        leave_processes()
        raise
    leave_processes()


def _finetune(config: FinetuneConfig) -> None:
    if config.output.exists():
        raise UserError(f"--output {config.output} exists already; name another folder or remove it first")
    started = time.monotonic()
    arguments = training_arguments(config, WorkFolder.of(config))
    with arguments.main_process_first(local=False):  # the hub's data are downloaded once
        task = load_task(config.task, config.data, halve=config.halve_evaluation)
        pairs = task.training_pairs()
    base = load_model_folder(config.model, device="cpu" if config.fsdp else None)
    pausing = finetuning_pausing(base, config.pausing)
    fewest, _ = pause_range(config.pausing.num_pauses_ft)
    examples = PausedExamples(pairs, base, pausing, fewest=fewest, seed=config.seed)
    examples[0]  # what cannot work with any example is refused before anything is written
    work = WorkFolder.of(config, leads=arguments.process_index == 0)
    work.open(config, arguments.world_size)
    if config.lora_rank:
        base = with_lora(base, config.lora_rank, config.seed)
    origin = ", every second document of what is evaluated," if task.halved else ""
    together = f" on {arguments.world_size} processes" if arguments.world_size > 1 else ""
    log.info(
        f"finetuning {config.model} on {len(examples)} examples of {config.task}{origin} with"
        f" {config.pausing.num_pauses_ft} pauses{together}"
    )
    trainer = train(base, examples, config, arguments, work)
    weights = whole_weights(trainer)
    if work.leads:
        kept_step = trainer.state.best_global_step or trainer.state.global_step
        write_finetuned_folder(base, config, work, time.monotonic() - started, kept_step, weights)
        work.remove()
        log.info(f"wrote {config.output}")
    trainer.accelerator.wait_for_everyone()


def train(
    base: ModelFolder, examples: PausedExamples, config: FinetuneConfig, arguments: TrainingArguments, work: WorkFolder
) -> Trainer:
    """Train ``base.model`` in place, keeping states and metrics in ``work`` and continuing from a state found there."""
    collator = PauseCollator(
        pad_id=base.eod_id,
        bidirectional=config.pausing.prefix_attention == "bidirectional",
        dtype=getattr(torch, TORCH_DTYPES[config.precision]),
    )
    with arguments.main_process_first(local=False):
        state = work.resume()
    callbacks: list[TrainerCallback] = [MetricsWriter(work)]
    learned: Dataset[PausedExample] = examples
    held_out = None
    if config.early_stopping_patience:
        learned, held_out = hold_out(examples, config)
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience))
    trainer = Trainer(
        model=base.model,
        args=arguments,
        train_dataset=learned,
        eval_dataset=held_out,
        data_collator=collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=state and str(state))
    return trainer


def hold_out(examples: PausedExamples, config: FinetuneConfig) -> tuple[Subset[PausedExample], Subset[PausedExample]]:
    """The examples to learn from, and those that early stopping looks at: the same ones for the same seed.

    Raises :class:`UserError` where there are too few.
    """
    number = config.held_out_examples
    if len(examples) <= number:
        raise UserError(f"--held-out-examples {number}: {config.task} has {len(examples)} training examples in all")
    chosen = set(random.Random(config.seed).sample(range(len(examples)), number))
    learned = [index for index in range(len(examples)) if index not in chosen]
    return Subset(examples, learned), Subset(examples, sorted(chosen))


def _early_stopping_arguments(config: FinetuneConfig) -> dict[str, Any]:
    """What the Trainer has to be told for early stopping: when to look, and to go back to the best."""
    if not config.early_stopping_patience:
        return {}
    return {
        "eval_strategy": "steps",
        "eval_steps": config.save_interval,
        "prediction_loss_only": True,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "restore_callback_states_from_checkpoint": True,
    }


def training_arguments(config: FinetuneConfig, work: WorkFolder) -> TrainingArguments:
    """Our configuration in the Trainer's words; what it would do beside training is switched off.

    Where a launcher started several processes, or DeepSpeed or FSDP is asked for, they form their group here.
    """
    arguments = TrainingArguments(
        output_dir=str(work.path),
        max_steps=config.steps,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule if config.schedule != "constant" else "constant_with_warmup",
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.clip_grad,
        bf16=config.precision == "bf16",
        seed=config.seed,
        logging_steps=config.log_interval,
        logging_nan_inf_filter=False,
        save_steps=config.save_interval,
        save_total_limit=1,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        **_early_stopping_arguments(config),
        **process_arguments(config),
    )
    # With several GPUs in sight the Trainer would split every batch over them and multiply the batch size.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def write_finetuned_folder(
    base: ModelFolder,
    config: FinetuneConfig,
    work: WorkFolder,
    seconds: float,
    kept_step: int,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the trained ``base.model``, its tokenizer, metrics and ``finetune.json`` to ``config.output`` at once.

    ``weights`` are those of a model that does not hold them whole.
    """
    if config.lora_rank:
        base = replace(base, model=base.model.merge_and_unload())
    generation = base.model.generation_config
    generation.eos_token_id = generation.pad_token_id = base.eod_id
    if base.pause_id is not None:
        generation.suppress_tokens = [base.pause_id]  # stock generate() then never emits a pause either
    with new_folder(config.output) as folder:
        base.model.save_pretrained(folder, state_dict=weights)
        base.tokenizer.save_pretrained(folder)
        shutil.copy(work.metrics, folder / METRICS)
        write_json(folder / FINETUNE_MARKER, finetune_record(base, config, work.final_loss(), seconds, kept_step))


def finetune_record(
    base: ModelFolder, config: FinetuneConfig, final_loss: float, seconds: float, kept_step: int
) -> dict[str, Any]:
    """What ``finetune.json`` says; a model whose pretraining is not known counts as pretrained without pauses."""
    pretrained = "pausept" if (base.pretraining or {}).get("pauses", "none") != "none" else "stdpt"
    fewest, most = pause_range(config.pausing.num_pauses_ft)
    finetuned = "pauseft" if most else "stdft"
    return {
        "format": FINETUNE_FORMAT,
        "task": config.task,
        "num_pauses_ft": most,
        "min_num_pauses_ft": fewest,
        "pause_placement": config.pausing.pause_placement,
        "pause_marker": config.pausing.pause_marker,
        "prefix_attention": config.pausing.prefix_attention,
        "halve_evaluation": config.halve_evaluation,
        "seed": config.seed,
        "steps": config.steps,
        "kept_step": kept_step,
        "final_loss": final_loss,
        "pretraining": base.pretraining,
        "variant": f"{pretrained}_{finetuned}",
        "config": to_flat(config),
        "versions": versions(),
        "seconds": round(seconds, 1),
    }

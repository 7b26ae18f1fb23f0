"""Finetuning of an exported model on a task, with pauses between every prompt and its target.

It uses Hugging Face's Trainer and the model's own loss, which covers the target and the end-of-document token after it,
and with ``--hint-weight`` also the pauses (:mod:`~pause_megatron.downstream.hints`).
An interrupted run resumes from a hidden folder next to the output. Each process trains on a part of every batch, and
rank 0 writes.
"""

import time
import traceback
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from pause_megatron import log
from pause_megatron.config.deepspeed import TORCH_DTYPES
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.task_definitions import find_definition
from pause_megatron.config.training import FaultsConfig
from pause_megatron.conversion.hub_upload import check_upload, upload
from pause_megatron.downstream.added_pause import load_base
from pause_megatron.downstream.finetuned_folder import write_finetuned_folder
from pause_megatron.downstream.hints import Hints, HintTrainer
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import decided_finetuning, finetuning_pausing
from pause_megatron.downstream.processes import (
    TIMEOUT,
    leave_processes,
    merged_weights,
    raise_on_all_ranks,
    run_on_rank_0,
)
from pause_megatron.downstream.prompting import finetuned_task
from pause_megatron.downstream.tasks import load_task
from pause_megatron.downstream.trainer_arguments import reporting_callbacks, training_arguments
from pause_megatron.downstream.trainer_states import (
    AlreadyTrained,
    NoFurtherStep,
    SafeTrainer,
    is_finished,
    state_folder,
)
from pause_megatron.downstream.training_examples import EpochStart, PauseCollator, PausedExamples, hold_out
from pause_megatron.downstream.unlikely_tokens import places_of
from pause_megatron.downstream.work_folder import MetricsWriter, WorkFolder, refuse_existing_output
from pause_megatron.errors import LostProcessError, UserError, one_line
from pause_megatron.parallel.heartbeat import Heartbeat, is_collective_failure
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.parallel.process_device import describe_device
from pause_megatron.pauses.prompts import PausedExample

LORA_ALPHA = 2
"""Factor of the low-rank additions, the same for every rank."""

_QUOTED_FAILURE = 200
"""Characters of a library's message in an error."""


def finetune(config: FinetuneConfig) -> None:
    """Finetune ``config.model`` on ``config.task`` and write ``config.output``; each process of a launcher calls this.

    Raises :class:`UserError` for an output that exists or that another run is writing, a model without ``<pause>`` that
    should pause, baked pauses that differ from those of finetuning, a batch that the processes cannot divide, a full
    disk, losses or weights that are not finite, and the errors of loading the task and the model and of placing the
    pauses. If another process dies or hangs, this one exits (:class:`~pause_megatron.parallel.heartbeat.Heartbeat`); if
    a collective fails although all processes are alive, it raises :class:`LostProcessError`.
    """
    uploads = config.push_to_hub if detect_launch().rank == 0 else None
    check_upload(uploads, config.output)
    try:
        _finetune(config)
    except (RuntimeError, torch.distributed.DistError) as error:
        if is_collective_failure(error):
            raise LostProcessError(
                f"--output {config.output}: the processes of this run lost their connection"
                f" ({one_line(error)[:_QUOTED_FAILURE]}); the same command resumes from the last state"
            ) from error
        raise
    except UserError as error:  # other errors may interrupt a collective, and leaving the group would wait for it
        traceback.clear_frames(error.__traceback__)  # the frames refer to the Trainer
        leave_processes()
        raise
    leave_processes()
    upload(config.output, uploads)


def _finetune(config: FinetuneConfig) -> None:
    refuse_existing_output(config)
    started = time.monotonic()
    launch = detect_launch()
    arguments = training_arguments(config, launch)
    faults = FaultsConfig(dead_rank_timeout=config.dead_rank_timeout, collective_timeout=TIMEOUT.total_seconds() / 60)
    with Heartbeat(launch, faults) as heartbeat:
        _finetune_together(config, arguments, heartbeat, started)


def _finetune_together(
    config: FinetuneConfig, arguments: TrainingArguments, heartbeat: Heartbeat, started: float
) -> None:
    find_definition(config.task, config.include_path)  # before the model, which takes longer to load
    base = load_base(config, device="cpu" if config.fsdp else None)
    config = replace(config, pausing=decided_finetuning(base, config.pausing))
    pausing = finetuning_pausing(base, config.pausing)
    _refuse_other_baking(base, pausing)
    hints = Hints(base, pausing.num_pauses) if config.pausing.hint_weight else None
    check = hints.check if hints else None
    with arguments.main_process_first(local=False):  # only rank 0 downloads the data from the hub
        settings: dict[str, Any] = {"include_path": config.include_path, "halve": config.halve_evaluation}
        task = finetuned_task(base, load_task(config.task, config.data, check_hints=check, **settings), config)
        pairs = task.training_pairs()
    examples = PausedExamples(pairs, base, pausing, fewest=config.pausing.range[0], seed=config.seed, hints=hints)
    examples[0]  # fails before anything is written if the pauses leave no room
    work = WorkFolder(config.work_folder, writes=arguments.process_index == 0)
    with work.owned(config, arguments):
        if (places := places_of(pairs, base, config)) is not None:
            examples = replace(examples, places=places)
        if config.lora_rank:
            base = _with_lora(base, config.lora_rank, config.seed)
        origin = " (every second document of the evaluation split)" if task.halved else ""
        together = f" on {arguments.world_size} processes" if arguments.world_size > 1 else ""
        log.info(
            f"finetuning {config.model} on {len(examples)} examples of {config.task}{origin} with"
            f" {config.pausing.num_pauses_ft} pauses{together}, on {describe_device().name}"
        )
        trainer = train(base, examples, config, arguments, work, heartbeat)
        raise_on_all_ranks(arguments, "")  # waits for ranks that still load a state, which write() removes
        weights = merged_weights(trainer)

        def write() -> None:
            kept_step = trainer.state.best_global_step or trainer.state.global_step
            write_finetuned_folder(base, config, work, time.monotonic() - started, kept_step, weights, task)
            work.remove()

        run_on_rank_0(arguments, write)
        log.info(f"wrote {config.output}")


def _refuse_other_baking(base: ModelFolder, pausing: Pausing) -> None:
    """Raise :class:`UserError` if the tokenizer of ``base`` would pause in another way than finetuning does."""
    baked = base.baked_pauses
    same = Pausing(num_pauses=baked or 0, prefix_attention=pausing.prefix_attention)
    if baked and pausing != same:
        raise UserError(
            f"--model {base.path}: other programs pause after its prompts, with {baked} pauses (--bake-pauses), and"
            f" would not pause as in this finetuning; export it without --bake-pauses, or give --num-pauses-ft {baked}"
            " --pause-placement append"
        )


def train(
    base: ModelFolder,
    examples: PausedExamples,
    config: FinetuneConfig,
    arguments: TrainingArguments,
    work: WorkFolder,
    heartbeat: Heartbeat,
) -> Trainer:
    """Train ``base.model`` in place, and keep states and metrics in ``work``; resumes from the newest state there."""
    collator = PauseCollator(
        pad_id=base.eod_id,
        bidirectional=config.pausing.prefix_attention == "bidirectional",
        dtype=getattr(torch, TORCH_DTYPES[config.precision]),
        shares_positions=base.shares_positions,
    )
    step = run_on_rank_0(arguments, work.resume)
    state = state_folder(work.path, step) if step else None
    writer = MetricsWriter(work)
    callbacks: list[TrainerCallback] = [writer, EpochStart(examples), _TimeoutOfSteps(heartbeat)]
    callbacks += reporting_callbacks(config)
    if state and is_finished(state):
        callbacks.append(NoFurtherStep())
    learned: Dataset[PausedExample] = examples
    held_out = None
    if config.early_stopping_patience:
        learned, held_out = hold_out(examples, config)
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience))
    weight = config.pausing.hint_weight
    trainer_class = partial(HintTrainer, hint_weight=weight) if weight else SafeTrainer
    trainer = trainer_class(
        model=base.model,
        args=arguments,
        train_dataset=learned,
        eval_dataset=held_out,
        data_collator=collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    if state:
        trainer.restore_losses(state)
    try:
        trainer.train(resume_from_checkpoint=state and str(state))
    except AlreadyTrained:
        writer.on_train_end(arguments, trainer.state, trainer.control)
        if arguments.load_best_model_at_end:
            trainer._load_best_model()
    return trainer


class _TimeoutOfSteps(TrainerCallback):
    """Shortens the timeout of the heartbeat when the steps begin: loading may keep its thread from running for long."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Shorten it."""
        self._heartbeat.shorten_timeout()


def _with_lora(base: ModelFolder, rank: int, seed: int) -> ModelFolder:
    """Return ``base`` with LoRA (Hu et al. 2021) on every matrix of its layers, and a trainable pause embedding.

    A model without pauses in pretraining cannot use them if the embedding keeps its random values.
    """
    set_seed(seed)
    embeddings = base.model.get_input_embeddings()
    [name] = [name.rpartition(".")[2] for name, module in base.model.named_modules() if module is embeddings]
    settings = LoraConfig(
        r=rank,
        lora_alpha=LORA_ALPHA * rank,
        target_modules="all-linear",
        trainable_token_indices={name: list(base.pause_ids)} if base.pause_ids else None,
        fan_in_fan_out=base.model.config.model_type == "gpt2",
        task_type="CAUSAL_LM",
    )
    return replace(base, model=get_peft_model(base.model, settings))

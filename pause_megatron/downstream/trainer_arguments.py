"""Settings of a finetuning as arguments of Hugging Face's Trainer."""

from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    get_available_reporting_integrations,
)

from pause_megatron.config.checks import suggestion
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.downstream.processes import process_arguments
from pause_megatron.errors import UserError
from pause_megatron.optional_packages import install_command
from pause_megatron.parallel.launcher import Launch

TENSORBOARD = "tensorboard"
"""Name of the program, and of the folder of its event files."""


def training_arguments(config: FinetuneConfig, launch: Launch) -> TrainingArguments:
    """Translate ``config`` for the Trainer, without its progress bars.

    If a launcher started several processes, or with DeepSpeed or FSDP, this forms the process group. Raises
    :class:`UserError` for a program in ``config.report_to`` that the Trainer does not know or that is not installed.
    """
    _check_report_to(config)
    early_stopping: dict[str, Any] = {}
    if config.early_stopping_patience:
        early_stopping = {
            "eval_strategy": "steps",
            "eval_steps": config.save_interval,
            "prediction_loss_only": True,
            "load_best_model_at_end": True,
            "metric_for_best_model": "loss",
            "greater_is_better": False,
            "restore_callback_states_from_checkpoint": True,
        }
    arguments = TrainingArguments(
        output_dir=str(config.work_folder),
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
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[name for name in config.report_to if name != TENSORBOARD] or "none",
        run_name=config.output.name,
        **early_stopping,
        **process_arguments(config, launch),
    )
    # With several visible GPUs the Trainer would use DataParallel and multiply the batch size.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _check_report_to(config: FinetuneConfig) -> None:
    """Raise :class:`UserError` for a program that cannot be reported to."""
    for name in config.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UserError(f"--report-to {name}: unknown; {suggestion(name, INTEGRATION_TO_CALLBACK)}")
        if name not in get_available_reporting_integrations():
            command = install_command(name) or f"pip install {name}"
            raise UserError(f"--report-to {name}: needs the package {name}, which is not installed; run {command}")


def reporting_callbacks(config: FinetuneConfig) -> list[TrainerCallback]:
    """Return the callback of TensorBoard, whose event files are next to the output; the Trainer adds the others.

    By default the Trainer would write them to its work folder, which is removed at the end.
    """
    if TENSORBOARD not in config.report_to:
        return []
    callback = TensorBoardCallback()
    callback.logging_dir = str(config.output.parent / TENSORBOARD / config.output.name)
    return [callback]

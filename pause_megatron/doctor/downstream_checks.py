"""Checks of exports, finetuning and generation."""

import math
from pathlib import Path
from typing import Any

import torch

from pause_megatron.config.conversion import ConvertToHfConfig
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.serialize import build
from pause_megatron.conversion.to_hf import convert_to_hf
from pause_megatron.doctor.check import Figures, Place
from pause_megatron.errors import UserError
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import read_record, read_record_lines
from pause_megatron.records.finetuning import FINETUNE_METRICS_KINDS, FinetuneStepRecord
from pause_megatron.records.pretraining import METRICS_FILE

_TASK = "parity"
_PROMPT = "The import statement"
_PAUSES = 4
_NEW_TOKENS = 6


def export_gpt2(place: Place) -> Figures:
    """Export the reference, and compare its logits with those of transformers."""
    from pause_megatron.doctor.small_runs import REFERENCE

    return _export(place.folder / "runs" / REFERENCE, place.folder / "hf" / "gpt2")


def export_llama(place: Place) -> Figures:
    """Train a Llama with grouped queries on the device of this process, and export it in a process on the CPU."""
    from pause_megatron.doctor.small_runs import run_config, train

    config = run_config(place, "llama", architecture="llama", num_query_groups=1, train_iters=2)
    train([config])
    return _export(config.output, place.folder / "hf" / "llama")


def _export(run: Path, output: Path) -> Figures:
    convert_to_hf(ConvertToHfConfig(checkpoint=run, output=output))
    difference = read_record(output / ExportRecord.FILE, ExportRecord).verdict.max_abs_logit_difference
    return {"found": f"logits differ by at most {difference:.1e}", "logit_difference": difference}


def finetuning(place: Place) -> Figures:
    """Finetune the export for five steps, in bf16 on GPUs."""
    from pause_megatron.downstream.finetune import finetune
    from pause_megatron.downstream.generated_tasks import write_task

    write_task(_TASK, place.folder / _TASK, seed=0, train=64, test=8)
    settings = {"model": place.folder / "hf" / "gpt2", "task": _TASK, "data": place.folder / _TASK}
    settings |= {"num_pauses_ft": _PAUSES, "steps": 5, "warmup_steps": 1, "batch_size": 8, "log_interval": 1}
    config = build(
        FinetuneConfig,
        {**settings, "output": place.folder / "finetuned", "precision": "bf16" if place.gpus else "fp32"},
    )
    finetune(config)
    lines = read_record_lines(config.output / METRICS_FILE, FINETUNE_METRICS_KINDS)
    losses = [line.loss for line in lines if isinstance(line, FinetuneStepRecord)]
    if not all(map(math.isfinite, losses)) or not losses[-1] < losses[0]:
        raise UserError(f"finetuning: its losses are {losses}, which do not fall; report it with doctor.json")
    return {"found": f"loss {losses[0]:.2f} to {losses[-1]:.2f} in {config.precision}", "losses": losses}


@torch.no_grad()
def generation(place: Place) -> Figures:
    """Generate after pauses with a cache, and compare with a complete forward pass for every token."""
    from pause_megatron.config.pausing import InferencePausing
    from pause_megatron.downstream.batching import align
    from pause_megatron.downstream.generation import generate_after
    from pause_megatron.downstream.model_folder import load_model_folder
    from pause_megatron.downstream.pausing_decisions import resolve_pausing

    folder = load_model_folder(place.folder / "hf" / "gpt2")
    pausing = resolve_pausing(folder, InferencePausing(num_pauses_inf=_PAUSES))
    prefix = pausing.prefix(folder, _PROMPT, folder.encode(_PROMPT), folder.context_length - _NEW_TOKENS)
    settings: dict[str, Any] = {"max_new_tokens": _NEW_TOKENS, "min_new_tokens": _NEW_TOKENS, "do_sample": False}
    [found] = generate_after(folder, [prefix], bidirectional=True, **settings)
    expected: list[int] = []
    for _ in range(_NEW_TOKENS):
        batch = align([prefix], [expected], folder.eod_id).to(folder.model.device)
        inputs = batch.model_inputs(bidirectional=True, dtype=torch.float32)
        logits = folder.model(**inputs).logits[0, -1]
        logits[[*folder.pause_ids, folder.eod_id]] = float("-inf")
        expected.append(int(logits.argmax()))
    if found != expected:
        raise UserError(f"generation: tokens {found} with a cache, but {expected} without; report it with doctor.json")
    return {"found": f"{_NEW_TOKENS} tokens after {_PAUSES} pauses as by recomputing every step"}

"""Diagnosis of one model on the prompts of one task: the command behind ``pause-megatron diagnose``."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from pause_megatron import log
from pause_megatron.atomic import reserved
from pause_megatron.config.diagnosis import DiagnoseConfig
from pause_megatron.config.serialize import to_flat
from pause_megatron.config.task_definitions import find_definition
from pause_megatron.downstream.diagnosis.answers import best_constant, measure_answers
from pause_megatron.downstream.diagnosis.attention import AttentionShares
from pause_megatron.downstream.diagnosis.logit_lens import LogitLens
from pause_megatron.downstream.diagnosis.pause_embedding import measure_embedding
from pause_megatron.downstream.diagnosis.probes import probes
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import resolve_pausing
from pause_megatron.downstream.tasks import Task, TextPair, load_task
from pause_megatron.errors import UserError
from pause_megatron.parallel.process_device import choose_device, describe_device
from pause_megatron.records.diagnosis import AttentionRecord, DiagnosisRecord, LensRecord
from pause_megatron.records.files import write_record
from pause_megatron.versions import versions


def diagnose(config: DiagnoseConfig) -> None:
    """Diagnose ``config.model`` and write the result file.

    Raises :class:`UserError` for an output that exists, before it loads anything; for a model without ``<pause>`` or
    without pauses to diagnose; for an architecture whose attention or final norm cannot be found; for a pretraining run
    of another model; and for the errors of loading the task and the model.
    """
    with reserved(config.output):
        if config.output.exists():
            raise UserError(f"--output {config.output}: exists already; choose another file, or remove it")
        started = time.monotonic()
        name = find_definition(config.task, config.include_path).name
        choose_device(config.device)
        folder = load_model_folder(config.model)
        pausing, numbers = _pauses(folder, config)
        halved = bool(folder.finetuning and folder.finetuning.halve_evaluation and folder.finetuning.task == name)
        task = load_task(config.task, config.data, include_path=config.include_path, halve=halved)
        pairs = _pairs(task, config.limit)
        embedding = measure_embedding(folder, config.pretrain)
        answers = measure_answers(folder, pairs, pausing, numbers, config.batch_size)
        attention, lens = measure_positions(folder, pairs, pausing, config.batch_size)
        record = DiagnosisRecord(
            model=str(config.model),
            task=name,
            num_pauses=pausing.num_pauses,
            num_pauses_ft=folder.finetuning.num_pauses_ft if folder.finetuning else None,
            prefix_attention=pausing.prefix_attention,
            num_prompts=len(pairs),
            best_constant=best_constant(folder, pairs, pausing),
            attention=attention,
            lens=lens,
            answers=answers,
            embedding=embedding,
            config=to_flat(config),
            versions=versions(),
            device=describe_device().name,
            seconds=round(time.monotonic() - started, 3),
        )
        write_record(config.output, record)
    log.info(f"wrote {config.output}: {len(pairs)} prompts with {pausing.num_pauses} pauses")


@torch.no_grad()
def measure_positions(
    folder: ModelFolder, pairs: Sequence[TextPair], pausing: Pausing, batch_size: int
) -> tuple[tuple[AttentionRecord, ...], tuple[LensRecord, ...]]:
    """Return attention shares and logit lens from one pass over ``pairs``. Leaves the model with eager attention."""
    model = folder.model
    model.set_attn_implementation("eager")  # the only kind that returns its weights
    lens = LogitLens(folder, pausing.num_pauses)
    with AttentionShares(model) as attention:
        for probe in probes(folder, pairs, pausing, batch_size):
            attention.start(probe, probe.attention_mask(model.dtype))
            lens.add(probe, model(**probe.model_inputs(model.dtype), output_hidden_states=True).hidden_states)
    return attention.records(), lens.records()


def _pauses(folder: ModelFolder, config: DiagnoseConfig) -> tuple[Pausing, tuple[int, ...]]:
    """Return the pauses of the diagnosis, and the numbers to compare answers with.

    The model is diagnosed with as many pauses as in finetuning; without those, with the largest number asked for.
    """
    numbers = config.pausing.numbers
    finetuning = folder.finetuning
    in_target = finetuning is not None and finetuning.pause_placement == "before-unlikely"
    finetuned = finetuning.num_pauses_ft if finetuning and not in_target else 0
    number = finetuned or max(numbers, default=0)
    if not number:
        raise UserError(
            f"--model {config.model}: was not finetuned with pauses in the prompt; give --num-pauses-inf, for example"
            " 0 10"
        )
    pausing = resolve_pausing(folder, replace(config.pausing, num_pauses_inf=number))
    if pausing.placement in ("every", "after-marker"):
        where = "every token, also of the answer" if pausing.placement == "every" else "each marker"
        raise UserError(
            f"--model {config.model}: pauses after {where}; only one run of pauses in the prompt is diagnosed; give"
            " --pause-placement append"
        )
    if pausing.filler is not None or pausing.repeats_tokens:
        raise UserError(
            f"--model {config.model}: has a filler or repeated tokens in place of pauses; only <pause> is diagnosed;"
            " give --pause-inputs pause"
        )
    return pausing, numbers


def _pairs(task: Task, limit: int) -> list[TextPair]:
    if task.scores_texts:
        raise UserError(f"--task {task.name}: scores complete texts and has no prompts to diagnose; give another task")
    documents = task.harness.eval_docs
    return [task.pair(documents[index]) for index in range(min(limit, len(documents)))]

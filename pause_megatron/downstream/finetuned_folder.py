"""Folder of a finetuned model: weights, tokenizer, metrics, model card, and ``finetune.json`` as its marker."""

import shutil
from dataclasses import replace

import torch

from pause_megatron.atomic import new_folder, write_text
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.serialize import to_flat
from pause_megatron.conversion.card_parts import CARD_FILE, CardOrigin
from pause_megatron.conversion.finetuned_card import FinetunedModel, finetuned_card
from pause_megatron.conversion.hf_config import add_transformers_4_names
from pause_megatron.downstream.hub_models import is_hub_name
from pause_megatron.downstream.model_folder import ModelFolder, not_finite
from pause_megatron.downstream.pausing import recorded_inputs
from pause_megatron.downstream.pausing_decisions import finetuning_pausing
from pause_megatron.downstream.tasks import Task
from pause_megatron.downstream.work_folder import WorkFolder
from pause_megatron.errors import UserError
from pause_megatron.parallel.process_device import describe_device
from pause_megatron.records.checksums import checksums
from pause_megatron.records.files import write_record
from pause_megatron.records.finetuning import FinetuneRecord
from pause_megatron.records.pretraining import METRICS_FILE
from pause_megatron.records.variants import variant_name
from pause_megatron.tokenizer.huggingface import save_tokenizer
from pause_megatron.tokenizer.tokenizer_files import SENTENCEPIECE_FILES
from pause_megatron.versions import versions


def write_finetuned_folder(
    base: ModelFolder,
    config: FinetuneConfig,
    work: WorkFolder,
    seconds: float,
    kept_step: int,
    weights: dict[str, torch.Tensor] | None,
    task: Task,
) -> None:
    """Write the trained ``base.model``, its tokenizer, metrics, model card and ``finetune.json`` to ``config.output``.

    ``weights`` replace those of a sharded model. A model of unknown origin counts as pretrained without pauses. Raises
    :class:`UserError` if weights are not finite.
    """
    if config.lora_rank:
        base = replace(base, model=base.model.merge_and_unload())
    generation = base.model.generation_config
    generation.eos_token_id = list(base.stop_ids) if len(base.stop_ids) > 1 else base.eod_id
    generation.pad_token_id = base.eod_id
    if base.pause_ids:
        generation.suppress_tokens = list(base.pause_ids)  # so that stock generate() never emits a pause either
    if bad := not_finite(weights or dict(base.model.named_parameters())):
        raise UserError(f"--learning-rate: tensor {bad[0]} is not finite after step {kept_step}; lower it")
    record = replace(_record(base, config, work.final_loss(), kept_step, seconds), task=task.name)
    with new_folder(config.output) as folder:
        base.model.save_pretrained(folder, state_dict=weights)
        add_transformers_4_names(folder)
        save_tokenizer(base.tokenizer, folder)
        for name in () if config.add_pause else SENTENCEPIECE_FILES:  # such a model lacks an added <pause>
            if (base.files / name).is_file():
                shutil.copyfile(base.files / name, folder / name)
        record = replace(record, files=checksums(folder))
        write_text(folder / CARD_FILE, _card(base, config, record, weights, task))
        shutil.copy(work.metrics, folder / METRICS_FILE)
        write_record(folder / FinetuneRecord.FILE, record)


def _record(
    base: ModelFolder, config: FinetuneConfig, final_loss: float, kept_step: int, seconds: float
) -> FinetuneRecord:
    pausing = finetuning_pausing(base, config.pausing)
    return FinetuneRecord(
        task=config.task,
        num_pauses_ft=pausing.num_pauses,
        min_num_pauses_ft=config.pausing.range[0],
        pause_placement=pausing.placement,
        pause_marker=pausing.marker,
        pause_interval=pausing.interval,
        unlikely_tokens=pausing.unlikely_tokens,
        scoring_model=str(config.pausing.scoring_model) if config.pausing.scoring_model else None,
        filler=pausing.filler,
        pause_inputs=recorded_inputs(base, pausing),
        prefix_attention=pausing.prefix_attention,
        hint_weight=config.pausing.hint_weight or None,
        halve_evaluation=config.halve_evaluation,
        seed=config.seed,
        steps=config.steps,
        kept_step=kept_step,
        final_loss=final_loss,
        model_name=config.model_name or base.model_name,
        pretraining=base.pretraining,
        variant=variant_name(base.pretraining.pauses if base.pretraining else "none", pausing.num_pauses),
        device=describe_device().name,
        precision=config.precision,
        config=to_flat(config),
        versions=versions(),
        seconds=round(seconds, 1),
    )


def _card(
    base: ModelFolder,
    config: FinetuneConfig,
    record: FinetuneRecord,
    weights: dict[str, torch.Tensor] | None,
    task: Task,
) -> str:
    model = FinetunedModel(
        name=config.push_to_hub or config.output.name,
        architecture=base.model.config.model_type,
        parameters=sum(map(torch.Tensor.numel, weights.values())) if weights else base.model.num_parameters(),
        pause_ids=base.pause_ids,
        baked_pauses=base.baked_pauses,
    )
    origin = CardOrigin(
        folder=base.files,
        hub_name=str(config.model) if is_hub_name(config.model) else None,
        datasets=() if config.data else (str(task.harness.config.dataset_path),),
    )
    return finetuned_card(model, record, origin)

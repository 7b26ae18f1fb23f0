"""Copy of a finetuned or exported model that pauses in other programs: ``pause-megatron bake``.

Weights and configuration stay; the tokenizer appends the pauses (:mod:`~pause_megatron.tokenizer.baking`).
"""

import shutil
from dataclasses import replace
from pathlib import Path

from huggingface_hub import EvalResult
from transformers import AutoTokenizer, GenerationConfig, PretrainedConfig

from pause_megatron import log
from pause_megatron.atomic import new_folder, write_text
from pause_megatron.config.conversion import baking_problem
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.serving import BakeConfig
from pause_megatron.conversion.card_parts import CARD_FILE, CardOrigin
from pause_megatron.conversion.finetuned_card import FinetunedModel, can_append, finetuned_card
from pause_megatron.conversion.hf_config import pause_positions_of, read_hf_config
from pause_megatron.conversion.hub_upload import check_upload, upload
from pause_megatron.conversion.model_card import model_card
from pause_megatron.conversion.stored_weights import StoredWeights
from pause_megatron.downstream.hub_models import find_model, is_hub_name
from pause_megatron.downstream.model_folder import origin_of, pause_ids_of
from pause_megatron.errors import UserError
from pause_megatron.records.checksums import checksums
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.files import read_record, write_record
from pause_megatron.records.finetuning import FinetuneRecord
from pause_megatron.records.pretraining import METRICS_FILE
from pause_megatron.tokenizer.baking import bake_pauses
from pause_megatron.tokenizer.huggingface import save_tokenizer

_COPIED = ("*.safetensors", "*.safetensors.index.json", "*.model", "config.json", "generation_config.json")
_ADVICE = "use `pause-megatron generate` and `evaluate` for it"


def bake(config: BakeConfig) -> None:
    """Write ``config.output``; see :class:`~pause_megatron.config.serving.BakeConfig`.

    Raises :class:`UserError`, and leaves no folder, if the output exists, if the model is damaged, has no ``<pause>``
    or was trained with pauses that other programs cannot insert, and if the hub cannot be reached for an upload.
    """
    check_upload(config.push_to_hub, config.output)
    files = find_model(config.model)
    settings, record = read_hf_config(files), origin_of(files)
    parameters = StoredWeights(files).parameters
    number = _number(config, record, shares_positions=pause_positions_of(settings) == "shared")
    results = [_result(path) for path in config.evaluations]
    tokenizer = AutoTokenizer.from_pretrained(files, trust_remote_code=False)
    baked = bake_pauses(tokenizer, number, flag="--num-pauses")
    pause_ids = tuple(pause_ids_of(files, tokenizer))
    with new_folder(config.output) as folder:
        for path in sorted(path for pattern in _COPIED for path in files.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
        _suppress(folder, settings, pause_ids)
        save_tokenizer(baked, folder)
        name = config.push_to_hub or config.output.name
        if isinstance(record, ExportRecord):
            tokenizer_record = replace(record.tokenizer, baked_pauses=number)
            record = replace(record, tokenizer=tokenizer_record, files=checksums(folder))
            write_record(folder / record.FILE, record)
            model_settings = ModelConfig(**record.source["config"]["model"])
            write_text(folder / CARD_FILE, model_card(name, record, model_settings, results))
        elif record:
            record = replace(record, files=checksums(folder))
            write_record(folder / record.FILE, record)
            if (files / METRICS_FILE).is_file():
                shutil.copyfile(files / METRICS_FILE, folder / METRICS_FILE)
            model = FinetunedModel(
                name=name,
                architecture=settings.model_type,
                parameters=parameters,
                pause_ids=pause_ids,
                baked_pauses=number,
            )
            origin = CardOrigin(folder=files, hub_name=str(config.model) if is_hub_name(config.model) else None)
            write_text(folder / CARD_FILE, finetuned_card(model, record, origin, results))
    log.info(f"wrote {config.output}: its tokenizer appends {number} pauses to every prompt")
    upload(config.output, config.push_to_hub)


def _number(config: BakeConfig, record: FinetuneRecord | ExportRecord | None, *, shares_positions: bool) -> int:
    """Return the number of pauses to append.

    Raises :class:`UserError` if other programs cannot pause as in training, and without a number.
    """
    number, flag = config.num_pauses or 0, f"--model {config.model}"
    if isinstance(record, FinetuneRecord):
        problem = baking_problem("none", replaces_pause=False, shares_positions=shares_positions)
        if record.num_pauses_ft and not can_append(record):
            problem = f"was finetuned with pauses ({record.pause_placement}) that are not <pause> after the prompt"
        if not problem and record.prefix_attention == "bidirectional" and config.prefix_attention is None:
            raise UserError(
                f"{flag}: was finetuned with attention in both directions, but other programs attend causally; finetune"
                " it with --prefix-attention causal, or give --prefix-attention causal here to bake it so"
            )
        if number not in (0, record.num_pauses_ft):
            log.warn(f"--num-pauses {number}: {config.model} was finetuned with {record.num_pauses_ft} pauses")
        number = number or record.num_pauses_ft
    else:
        pretraining = record.pretraining if record else None
        replaces = pretraining is not None and (pretraining.pause_inputs == "repeat" or pretraining.filler is not None)
        strategy = pretraining.pauses if pretraining else "none"
        problem = baking_problem(strategy, replaces_pause=replaces, shares_positions=shares_positions)
    if problem:
        raise UserError(f"{flag}: {problem}; {_ADVICE}")
    if not number:
        raise UserError(f"{flag}: was not finetuned with pauses; give --num-pauses, for example 10")
    return number


def _suppress(folder: Path, settings: PretrainedConfig, pause_ids: tuple[int, ...]) -> None:
    """Keep pauses out of what stock ``generate`` emits."""
    has_file = (folder / "generation_config.json").is_file()
    generation = GenerationConfig.from_pretrained(folder) if has_file else GenerationConfig.from_model_config(settings)
    generation.suppress_tokens = sorted({*(generation.suppress_tokens or ()), *pause_ids})
    generation.save_pretrained(folder)


def _result(path: Path) -> EvalResult:
    """Return the primary metric of a result file for the model card."""
    record = read_record(path, EvaluationRecord)
    return EvalResult(
        task_type="text-generation",
        dataset_type=record.task,
        dataset_name=record.task,
        metric_type=record.primary_metric,
        metric_name=f"{record.primary_metric}, {record.num_pauses_inf} pauses, {record.prefix_attention} attention",
        metric_value=record.primary.value,
    )

"""Import of a Hugging Face model as a checkpoint with ``<pause>`` to pretrain from: ``pause-megatron convert-from-hf``.

The checkpoint contains weights only, and its tokenizer. Few tensors are in memory at a time.
"""

import hashlib
import math
import shlex
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from pause_megatron import log
from pause_megatron.atomic import new_folder, write_json
from pause_megatron.checkpoint.checkpoint_manifest import (
    MANIFEST,
    WEIGHTS,
    Fragment,
    Manifest,
    ParameterRecord,
    RunningChecksum,
)
from pause_megatron.checkpoint.reader import CheckpointReader, tensor_key
from pause_megatron.config.conversion import ConvertFromHfConfig
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.serialize import flags_of_mapping, to_plain
from pause_megatron.conversion.hf_config import CONFIG_FILE, read_hf_config
from pause_megatron.conversion.hf_settings import model_config_of
from pause_megatron.conversion.one_layer import Read, layer_prefix, megatron_model
from pause_megatron.conversion.proof import prove_export
from pause_megatron.conversion.safetensors_writer import divide, write_tensors
from pause_megatron.conversion.stored_weights import StoredWeights
from pause_megatron.conversion.table import from_hf_state, mappings_of
from pause_megatron.conversion.to_hf import TOKENIZER_FOLDER
from pause_megatron.errors import UserError
from pause_megatron.records.checkpoint_state import CheckpointDataRecord, CheckpointState, GenerationTokens
from pause_megatron.records.checksums import compare_checksums
from pause_megatron.records.conversion import ExportRecord, ImportRecord, PretrainingRecord
from pause_megatron.records.files import read_json, read_record, write_record
from pause_megatron.records.finetuning import FinetuneRecord
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.make_tokenizer import add_pause
from pause_megatron.tokenizer.pause_tokenizer import find_pauses, find_tokenizer_file, open_backend, read_tokenizer_file
from pause_megatron.tokenizer.tokenizer_files import copy_tokenizer
from pause_megatron.versions import commit, versions

MAX_FILE_BYTES = 2_000_000_000
_VOCABULARY = ("wte.weight", "embed_tokens.weight", "lm_head.weight")
"""Ends of the names of tensors with one row per token."""
_GENERATION_FILE = "generation_config.json"


def convert_from_hf(config: ConvertFromHfConfig) -> None:
    """Import a model; see :class:`~pause_megatron.config.conversion.ConvertFromHfConfig`.

    Raises :class:`UserError`, and leaves no folder, if the model's folder is incomplete or differs from the checksums
    in its record, the model is not supported, the output exists, or the logits differ.
    """
    hf_config = read_hf_config(config.model)
    model = model_config_of(hf_config, config.model)
    pretraining = _pretraining_of(config.model)
    stored = _open_weights(config.model, hf_config)
    with new_folder(config.output) as folder:
        tokenizer, num_known = _write_tokenizer(config.model, folder / TOKENIZER_FOLDER, config.distinct_pauses)
        if hf_config.vocab_size < num_known:
            raise UserError(
                f"--model {config.model}: its tokenizer has {num_known} tokens but its embeddings only"
                f" {hf_config.vocab_size} rows; give a model and tokenizer that belong together"
            )
        read = _with_pause_rows(stored, num_known=num_known, vocab_size=tokenizer.vocab_size, seed=config.seed)
        generation = _generation_tokens(config.model, tokenizer, num_known)
        _write_checkpoint(folder, read, model, tokenizer, config, generation, pretraining)
        comparison = prove_export(
            config.model,
            CheckpointReader(folder).read_parameter_and_release,
            model,
            vocab_size=tokenizer.vocab_size,
            num_tokens=num_known,
            pause_ids=tokenizer.pause_ids,
            config=config.comparison,
        )
        record = ImportRecord(
            source={"model": str(config.model), "config": hf_config.to_diff_dict()},
            pause_added=num_known == tokenizer.pause_id,
            verdict=comparison,
            commit=commit(),
            versions=versions(),
        )
        write_record(folder / ImportRecord.FILE, record)
    log.info(
        f"wrote {config.output}: logits differ by at most {comparison.max_abs_logit_difference:.1e} over"
        f" {comparison.positions} positions; train it with\n  pause-megatron pretrain --initial-checkpoint"
        f" {shlex.quote(str(config.output))} --tokenizer {shlex.quote(str(config.output / TOKENIZER_FOLDER))}"
        f" {_flags(model)} ..."
    )


def _pretraining_of(folder: Path) -> PretrainingRecord | None:
    """Return the record of pretraining of the model in ``folder``; None if this project did not pretrain it.

    The checkpoint does not record a finetuning; it warns of one. Raises :class:`UserError` for a damaged record, and
    for a file that differs from its checksum there.
    """
    kinds: tuple[type[FinetuneRecord] | type[ExportRecord], ...] = (FinetuneRecord, ExportRecord)
    for kind in kinds:
        if (folder / kind.FILE).is_file():
            record = read_record(folder / kind.FILE, kind)
            compare_checksums(folder, record.files or {}, kind.FILE)
            if isinstance(record, FinetuneRecord):
                log.warn(
                    f"{folder}: was finetuned on {record.task}, which the checkpoint does not record; give the flags of"
                    " its pauses when you generate with an export of it or evaluate that"
                )
            return record.pretraining
    return None


def _open_weights(folder: Path, hf_config: PretrainedConfig) -> StoredWeights:
    """Open the weights of ``folder``. Raises :class:`UserError` unless they are those that ``hf_config`` describes."""
    stored = StoredWeights(folder)
    stored.require_layers(hf_config.num_hidden_layers)
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(hf_config, attn_implementation="sdpa").named_parameters()
    stored.check({name: tuple(parameter.shape) for name, parameter in parameters})
    return stored


def _generation_tokens(folder: Path, tokenizer: PauseTokenizer, num_known: int) -> GenerationTokens:
    """Tokens by which stock transformers starts and ends a text with the model in ``folder``."""
    path = folder / _GENERATION_FILE
    values = {**read_json(folder / CONFIG_FILE), **(read_json(path) if path.is_file() else {})}
    bos_id, stop_ids = values.get("bos_token_id"), values.get("eos_token_id")
    stop_ids = stop_ids if isinstance(stop_ids, list) else [stop_ids]
    for token in (bos_id, *stop_ids):
        if not (token is None or type(token) is int):
            raise UserError(f"{path}: {token!r} is not a token id; change bos_token_id or eos_token_id")
    kept = [token for token in stop_ids if token is not None and 0 <= token < num_known]
    for token in kept:
        if text := tokenizer.decode([token]):
            log.warn(f"{folder}: generation ends at token {token}, which is the text {text!r}, and so will an export")
    # Configurations without a token have the default of transformers, which can be any text
    if bos_id is None or not 0 <= bos_id < num_known or tokenizer.decode([bos_id]):
        bos_id = next(iter(tokenizer.bos_ids), None)
    return GenerationTokens(bos_id=bos_id, stop_ids=tuple(kept))


def _write_tokenizer(source: Path, output: Path, distinct_pauses: int) -> tuple[PauseTokenizer, int]:
    """Copy the tokenizer, with the pauses added that it lacks; returns it and the number of tokens it had before."""
    file = find_tokenizer_file(source)
    before = open_backend(file, read_tokenizer_file(file))
    present = find_pauses(before)
    if not present or len(present) == 1 < distinct_pauses:
        add_pause(source, output, distinct_pauses=distinct_pauses)
        return PauseTokenizer.load(output), before.vocab_size
    if distinct_pauses not in (1, len(present)):
        raise UserError(
            f"--distinct-pauses {distinct_pauses}: the tokenizer of {source} has {len(present)} already; remove the"
            " flag"
        )
    output.mkdir()
    copy_tokenizer(PauseTokenizer.load(file), output)
    tokenizer = PauseTokenizer.load(output)
    return tokenizer, tokenizer.vocab_size


def _with_pause_rows(read: Read, *, num_known: int, vocab_size: int, seed: int) -> Read:
    """Wrap ``read`` so that vocabulary tensors have exactly ``vocab_size`` rows.

    It drops rows beyond ``num_known`` and draws the added rows of pauses from a normal distribution with the mean
    and standard deviation of the known rows, in each dimension.
    """

    def read_with_pause(name: str) -> torch.Tensor:
        tensor = read(name)
        if not name.endswith(_VOCABULARY):
            return tensor
        known = tensor[:num_known].float()  # [num_known, hidden size]
        if num_known == vocab_size:
            return known
        name_seed = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "little")
        noise = torch.randn(vocab_size - num_known, known.shape[1], generator=torch.Generator().manual_seed(name_seed))
        return torch.cat([known, known.mean(0) + noise * known.std(0)])

    return read_with_pause


def _write_checkpoint(
    folder: Path,
    read: Read,
    model: ModelConfig,
    tokenizer: PauseTokenizer,
    config: ConvertFromHfConfig,
    generation: GenerationTokens,
    pretraining: PretrainingRecord | None,
) -> None:
    records = _parameter_records(model, tokenizer.vocab_size)
    names = [mapping.megatron for mapping in mappings_of(model)]
    assert set(records) == set(names), set(records) ^ set(names)
    # Checkpoints store every parameter flattened: one dimension
    lengths = {tensor_key(WEIGHTS, name): (math.prod(records[name].shape),) for name in names}
    files = divide(lengths, bytes_per_element=torch.float32.itemsize, max_bytes=MAX_FILE_BYTES, stem="weights")
    state = from_hf_state(read, model, tokenizer.vocab_size)
    flat = ((tensor_key(WEIGHTS, name), each.reshape(-1)) for name, each in state)
    digests = write_tensors(folder, files, flat, torch.float32, RunningChecksum)
    prefix = tensor_key(WEIGHTS, "")
    fragments = [
        Fragment(file=file, name=key.removeprefix(prefix), tp_rank=0, tp_size=1, start=0, length=length)
        for file, shapes in files.items()
        for key, (length,) in shapes.items()
    ]
    run = CheckpointState(  # as before the first step
        iteration=0,
        consumed_samples=0,
        real_tokens=0,
        pause_tokens=0,
        layout="from Hugging Face",
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
        dataset=CheckpointDataRecord(strategy="none", pause_rate=0.0, seq_length=model.max_position_embeddings),
        config={
            "model": to_plain(model),
            "tokenizer": str(config.output / TOKENIZER_FOLDER),
            "output": str(config.output),
            "data": [],
        },
        generation=generation,
        converted_from=str(config.model),
        pretraining=pretraining,
        versions=versions(),
    )
    manifest = Manifest(
        state=run.to_plain(),
        optimizer={},
        files={file: digest.result for file, digest in digests.items()},
        parameters=records,
        fragments=fragments,
    )
    manifest.check()
    write_json(folder / MANIFEST, manifest.to_plain())


def _parameter_records(model: ModelConfig, vocab_size: int) -> dict[str, ParameterRecord]:
    """Records of how Megatron-core shards each parameter; all layers are sharded as the first one is."""
    with megatron_model(replace(model, num_layers=1), vocab_size) as local:
        one_layer = {item.name: ParameterRecord.of(item.shard) for item in local.parameters}
    first = layer_prefix(0)
    return {
        name.replace(first, layer_prefix(layer)): record
        for name, record in one_layer.items()
        for layer in range(model.num_layers if name.startswith(first) else 1)
    }


def _flags(model: ModelConfig) -> str:
    """Flags of ``pretrain`` for this model, without those that equal the default."""
    default = vars(ModelConfig())
    changed = {name: value for name, value in vars(model).items() if value != default[name]}
    return " ".join(flags_of_mapping(changed, ModelConfig, "model"))

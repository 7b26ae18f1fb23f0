"""Export of a checkpoint to a Hugging Face folder that stock transformers loads: ``pause-megatron convert-to-hf``.

The folder is written under a temporary name, checked against the checkpoint, and only then renamed, so a folder that
exists has been checked. Few tensors are in memory at a time.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pause_megatron import log
from pause_megatron.atomic import new_folder, write_json, write_text
from pause_megatron.checkpoint.checkpoint_folders import find_checkpoint
from pause_megatron.checkpoint.checkpoint_manifest import TOKENIZER_FOLDER
from pause_megatron.checkpoint.reader import CheckpointReader, verified_meanwhile
from pause_megatron.config.blend import parse_blend
from pause_megatron.config.conversion import ConvertToHfConfig, baking_problem
from pause_megatron.config.deepspeed import TORCH_DTYPES
from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.card_parts import CARD_FILE
from pause_megatron.conversion.hf_config import add_transformers_4_names, hf_generation_config, hf_model_config
from pause_megatron.conversion.hub_upload import check_upload, upload
from pause_megatron.conversion.model_card import model_card
from pause_megatron.conversion.proof import prove_export, refuse_other_settings
from pause_megatron.conversion.safetensors_writer import divide, write_tensors
from pause_megatron.conversion.stored_weights import INDEX_FILE
from pause_megatron.conversion.table import to_hf_state
from pause_megatron.data.stored_sequences import StoredSequences
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.records.checkpoint_state import CheckpointState, GenerationTokens
from pause_megatron.records.checksums import checksums
from pause_megatron.records.conversion import ExportedTokenizerRecord, ExportRecord, LogitComparison, PretrainingRecord
from pause_megatron.records.files import write_record
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.baking import bake_pauses
from pause_megatron.tokenizer.huggingface import prove_equal, save_tokenizer, to_huggingface
from pause_megatron.tokenizer.tokenizer_files import write_sentencepiece_model
from pause_megatron.versions import commit, versions

TOKENIZER_TEXTS = 1000
"""Most sequences of training text to compare the exported tokenizer on."""


def convert_to_hf(config: ConvertToHfConfig) -> None:
    """Export a checkpoint; see :class:`~pause_megatron.config.conversion.ConvertToHfConfig`.

    Raises :class:`UserError`, and leaves no folder, if the checkpoint is incomplete or damaged, the tokenizer is not
    the run's, its pauses cannot be baked, the output exists, or the logits differ.
    """
    check_upload(config.push_to_hub, config.output)
    checkpoint = find_checkpoint(config.checkpoint)
    with new_folder(config.output) as folder, verified_meanwhile(checkpoint) as reader:
        state = CheckpointState.read(reader.state, checkpoint)
        model = ModelConfig(**state.config["model"])
        tokenizer = _tokenizer_of_run(checkpoint, state, config.tokenizer)
        if config.bake_pauses:
            _refuse_baking(config.bake_pauses, _pretraining_of(state, tokenizer), model)
        dtype = getattr(torch, TORCH_DTYPES[config.dtype])
        log.info(f"converting {checkpoint} ({state.layout}, iteration {state.iteration})")
        digests = write_model(
            folder,
            reader,
            model,
            tokenizer,
            dtype=dtype,
            max_shard_bytes=int(config.max_shard_gb * 1e9),
            tokens=state.generation
            or GenerationTokens(bos_id=next(iter(tokenizer.bos_ids), None), stop_ids=(tokenizer.eod_id,)),
        )
        data = [state.resolve(part.folder, checkpoint) for part in parse_blend("--data", state.config["data"])]
        texts_compared = write_tokenizer(folder, tokenizer, data, max_length=model.max_position_embeddings)
        if config.bake_pauses:
            _bake(config.bake_pauses, folder)
        refuse_other_settings(folder, model)
        comparison = prove_export(
            folder,
            lambda name: reader.read_parameter_and_release(name).to(dtype),
            model,
            vocab_size=tokenizer.vocab_size,
            num_tokens=tokenizer.vocab_size,
            pause_ids=tokenizer.pause_ids,
            config=config.comparison,
        )
        record = replace(
            _record(config, checkpoint, state, tokenizer, texts_compared, comparison),
            files=checksums(folder, known=digests),
        )
        write_record(folder / ExportRecord.FILE, record)
        write_text(folder / CARD_FILE, model_card(config.push_to_hub or config.output.name, record, model))
    log.info(
        f"wrote {config.output}: logits differ by at most {comparison.max_abs_logit_difference:.1e}"
        f" over {comparison.positions} positions, {comparison.pauses} of them pauses"
    )
    upload(config.output, config.push_to_hub)


def _tokenizer_of_run(checkpoint: Path, state: CheckpointState, path: Path | None) -> PauseTokenizer:
    own = checkpoint / TOKENIZER_FOLDER
    if path is None and not own.exists():
        path = state.resolve(state.config["tokenizer"], checkpoint)
        if not path.exists():
            raise UserError(f"{checkpoint}: contains no tokenizer, and {path} does not exist; give --tokenizer")
    tokenizer = PauseTokenizer.load(path or own)
    if tokenizer.sha256 != state.tokenizer_sha256:
        raise UserError(f"--tokenizer {tokenizer.path}: {checkpoint} was trained with another tokenizer; give that one")
    return tokenizer


def write_model(
    folder: Path,
    reader: CheckpointReader,
    model: ModelConfig,
    tokenizer: PauseTokenizer,
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_bytes: int = 2_000_000_000,
    tokens: GenerationTokens | None = None,
) -> dict[str, str]:
    """Write weights in files of at most ``max_shard_bytes`` bytes, ``config.json`` and ``generation_config.json``.

    ``tokens`` are those of the imported model that training started from. Returns the SHA-256, in hexadecimal, of each
    file of weights by its name.
    """
    hf_config = hf_model_config(model, vocab_size=tokenizer.vocab_size, eod_id=tokenizer.eod_id, tokens=tokens)
    hf_config.dtype = dtype
    with torch.device("meta"):
        hf_model = AutoModelForCausalLM.from_config(hf_config)
        state = to_hf_state(lambda name: torch.empty(reader.parameters[name].shape), model, tokenizer.vocab_size)
        shapes = {name: tuple(tensor.shape) for name, tensor in state}
    # named_parameters lists tied parameters once, under the name of the embeddings
    expected = {name: tuple(parameter.shape) for name, parameter in hf_model.named_parameters()}
    assert shapes == expected, "the conversion table does not give the parameters of transformers"
    hf_config.architectures = [type(hf_model).__name__]
    hf_config.save_pretrained(folder)
    add_transformers_4_names(folder)
    generation = hf_generation_config(pause_ids=tokenizer.pause_ids, eod_id=tokenizer.eod_id, tokens=tokens)
    generation.save_pretrained(folder)
    files = divide(shapes, bytes_per_element=dtype.itemsize, max_bytes=max_shard_bytes, stem="model")
    tensors = to_hf_state(reader.read_parameter_and_release, model, tokenizer.vocab_size)
    digests = write_tensors(folder, files, tensors, dtype, hashlib.sha256)
    if len(files) > 1:
        total = sum(hf_model.get_parameter(name).numel() for name in shapes) * dtype.itemsize
        weight_map = {name: file for file, of_file in files.items() for name in of_file}
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return {name: digest.hexdigest() for name, digest in digests.items()}


def write_tokenizer(folder: Path, tokenizer: PauseTokenizer, data: Sequence[Path], *, max_length: int) -> int:
    """Write the tokenizer to ``folder`` and compare it, as stock transformers loads it, with that of preprocessing.

    ``max_length`` is the model's context (tokens), unless the tokenizer has a ``model_max_length`` of its own.
    Returns the number of texts compared: edge cases, and sequences of the first folder of ``data`` if that still
    exists. Raises :class:`UserError` at the first text that is encoded differently.
    """
    save_tokenizer(to_huggingface(tokenizer, max_length=max_length), folder)
    write_sentencepiece_model(tokenizer, folder)
    texts = _texts(tokenizer, data[0]) if data else []
    loaded = AutoTokenizer.from_pretrained(folder)
    if _is_plain(loaded):
        return prove_equal(tokenizer, loaded, texts)
    # transformers 5 has a class for this model_type, which replaces normalizer, pre-tokenizer and decoder by its own
    save_tokenizer(to_huggingface(tokenizer, max_length=max_length, marks_pauses=False), folder)
    try:
        return prove_equal(tokenizer, AutoTokenizer.from_pretrained(folder), texts)
    except UserError as error:
        raise UserError(
            f"{tokenizer.path}: transformers loads the tokenizer of this kind of model as {type(loaded).__name__},"
            " which encodes texts differently; a model of this kind needs its published tokenizer, with <pause> added"
        ) from error


def _is_plain(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether ``tokenizer`` does all that its ``tokenizer.json`` says."""
    return type(tokenizer) is PreTrainedTokenizerFast


def _bake(num_pauses: int, folder: Path) -> None:
    """Add ``num_pauses`` to the tokenizer in ``folder``. Raises :class:`UserError` if transformers ignores them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not _is_plain(tokenizer):
        raise UserError(
            f"--bake-pauses {num_pauses}: transformers loads the tokenizer of this kind of model as"
            f" {type(tokenizer).__name__}, which would take pauses in a chat for text; remove the flag"
        )
    save_tokenizer(bake_pauses(tokenizer, num_pauses), folder)


def _texts(tokenizer: PauseTokenizer, path: Path) -> list[str]:
    try:
        stored = StoredSequences(path, load_dataset_manifest(path))
        return [tokenizer.decode(stored.get(index).tolist()) for index in range(min(len(stored), TOKENIZER_TEXTS))]
    except UserError as error:
        log.warn(f"comparing the tokenizer only on edge cases, without training text: {error}")
        return []


def _record(
    config: ConvertToHfConfig,
    checkpoint: Path,
    state: CheckpointState,
    tokenizer: PauseTokenizer,
    texts_compared: int,
    comparison: LogitComparison,
) -> ExportRecord:
    return ExportRecord(
        pretraining=_pretraining_of(state, tokenizer),
        tokenizer=ExportedTokenizerRecord(
            sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            pause_id=tokenizer.pause_id,
            distinct_pauses=tokenizer.distinct_pauses,
            eod_id=tokenizer.eod_id,
            texts_compared=texts_compared,
            baked_pauses=config.bake_pauses,
        ),
        dtype=config.dtype,
        verdict=comparison,
        source={"checkpoint": str(checkpoint), "layout": state.layout, "config": state.config},
        commit=commit(),
        versions=versions(),
    )


def _pretraining_of(state: CheckpointState, tokenizer: PauseTokenizer) -> PretrainingRecord:
    """Return how the model of a checkpoint was pretrained: by its run, or before the import that wrote it."""
    if state.pretraining is not None:
        return state.pretraining
    name, model = Path(state.config["output"]).name, ModelConfig(**state.config["model"])
    return PretrainingRecord(
        name=name,
        model_name=state.config.get("model_name") or name,
        seed=state.config.get("training", {}).get("seed"),
        parameters=model.num_parameters(tokenizer.vocab_size),
        non_embedding_parameters=model.non_embedding_parameters,
        pauses=state.dataset.strategy,
        pause_rate=state.dataset.pause_rate,
        pause_inputs=state.config.get("training", {}).get("pause_inputs", "pause"),
        filler=state.config.get("training", {}).get("filler"),
        pauses_per_token=state.dataset.pauses_per_token,
        pause_interval=state.dataset.pause_interval,
        rates=state.dataset.rates,
        pause_positions=model.pause_positions if model.shares_positions else None,
        distinct_pauses=tokenizer.distinct_pauses,
        seq_length=state.dataset.seq_length,
        iterations=state.iteration,
        consumed_samples=state.consumed_samples,
        real_tokens=state.real_tokens,
        pause_tokens=state.pause_tokens,
    )


def _refuse_baking(num_pauses: int, pretraining: PretrainingRecord, model: ModelConfig) -> None:
    """Raise :class:`UserError` if stock programs cannot pause as the model was trained, whatever the tokenizer adds."""
    problem = baking_problem(
        pretraining.pauses,
        replaces_pause=pretraining.pause_inputs == "repeat" or pretraining.filler is not None,
        shares_positions=model.shares_positions,
    )
    if problem:
        raise UserError(
            f"--bake-pauses {num_pauses}: the model {problem}; remove the flag, and use `pause-megatron generate` and"
            " `evaluate` with the export"
        )

"""``tools/convert_from_hf.py``: a Hugging Face model to a checkpoint this project trains, with ``<pause>`` added.

The checkpoint has weights only, and its tokenizer with it. Written beside its final name, proven against the model it
came from, and only then renamed. The weights pass through memory one tensor at a time.
"""

from __future__ import annotations

import hashlib
import math
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig

from pause_megatron import log
from pause_megatron.atomic import new_folder, write_json
from pause_megatron.checkpoint.manifest import WEIGHTS, Fragment, Manifest, ParameterRecord
from pause_megatron.checkpoint.names import MANIFEST
from pause_megatron.checkpoint.reader import CheckpointReader, file_record, tensor_key
from pause_megatron.config.conversion import ConvertFromHfConfig
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.conversion.hf_config import model_config_of
from pause_megatron.conversion.one_layer import StoredWeights, layer_prefix, megatron_model
from pause_megatron.conversion.proof import prove_export
from pause_megatron.conversion.safetensors_writer import TensorFile, divide, write_tensors
from pause_megatron.conversion.table import from_hf_state, rows_of
from pause_megatron.conversion.to_hf import REPORT_FILE, REPORT_FORMAT, TOKENIZER_FOLDER
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PAUSE_TOKEN, PauseTokenizer
from pause_megatron.tokenizer.make_tokenizer import add_pause
from pause_megatron.tokenizer.pause_tokenizer import find_tokenizer_file, open_backend, read_tokenizer_file
from pause_megatron.versions import commit, versions

MAX_FILE_BYTES = 2_000_000_000
_VOCABULARY = ("wte.weight", "embed_tokens.weight", "lm_head.weight")
"""Ends the names of the tensors with a row for every token."""


def convert_from_hf(config: ConvertFromHfConfig) -> None:
    """Convert a model; see :class:`~pause_megatron.config.conversion.ConvertFromHfConfig`.

    Raises :class:`UserError` when the folder is not complete, when its model has what this project's have not, when the
    output exists, and when the proof fails; no folder is left then.
    """
    if not (config.model / "config.json").is_file():
        raise UserError(f"--model {config.model}: no config.json; expected a Hugging Face folder")
    hf_config = AutoConfig.from_pretrained(config.model)
    model = model_config_of(hf_config, config.model)
    stored = StoredWeights(config.model)
    with new_folder(config.output) as folder:
        tokenizer, num_known = _write_tokenizer(config.model, folder / TOKENIZER_FOLDER)
        if hf_config.vocab_size < num_known:
            raise UserError(
                f"--model {config.model}: its tokenizer has {num_known} tokens, and its model only"
                f" {hf_config.vocab_size} rows for them"
            )
        source = _Source(stored, model, tokenizer, num_known, config.seed)
        _write_checkpoint(folder, source, model, tokenizer, config)
        verdict = prove_export(
            config.model,
            CheckpointReader(folder).whole_and_release,
            model,
            vocab_size=tokenizer.vocab_size,
            num_tokens=num_known,
            pause_id=tokenizer.pause_id,
            sequences=config.proof_sequences,
            tolerance=config.tolerance,
            method=config.proof,
        )
        report = {
            "format": REPORT_FORMAT,
            "source": {"model": str(config.model), "config": hf_config.to_diff_dict()},
            "pause_added": num_known == tokenizer.pause_id,
            "verdict": verdict.to_plain(),
            "commit": commit(),
            "versions": versions(),
        }
        write_json(folder / REPORT_FILE, report)
    log.info(
        f"wrote {config.output}: logits differ by at most {verdict.max_abs_logit_difference:.1e} over"
        f" {verdict.positions} positions; train it with\n  pause-megatron pretrain --initial-checkpoint"
        f" {shlex.quote(str(config.output))} --tokenizer {shlex.quote(str(config.output / TOKENIZER_FOLDER))}"
        f" {_flags(model)} ..."
    )


def _write_tokenizer(source: Path, output: Path) -> tuple[PauseTokenizer, int]:
    """The folder's tokenizer with ``<pause>``, and the number of tokens it had without what was added here."""
    file = find_tokenizer_file(source)
    before = open_backend(file, read_tokenizer_file(file))
    if before.special_id(PAUSE_TOKEN) is None:
        add_pause(source, output)
        return PauseTokenizer.load(output), before.vocab_size
    output.mkdir()
    for path in (file, file.with_name("tokenizer_config.json")):
        if path.exists():
            shutil.copy2(path, output)
    tokenizer = PauseTokenizer.load(output)
    return tokenizer, tokenizer.vocab_size


class _Source:
    """Hugging Face's tensors by name, with exactly the vocabulary's rows."""

    def __init__(
        self, stored: StoredWeights, model: ModelConfig, tokenizer: PauseTokenizer, num_known: int, seed: int
    ) -> None:
        self._stored = stored
        self._model = model
        self._tokenizer = tokenizer
        self._num_known = num_known
        self._seed = seed

    def __call__(self, name: str) -> torch.Tensor:
        tensor = self._stored(name)
        return self._with_pause(name, tensor) if name.endswith(_VOCABULARY) else tensor

    def _with_pause(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """The rows of known tokens, and if it is new one for ``<pause>``, drawn as if it were one of theirs."""
        known = rows[: self._num_known].float()
        if self._num_known == self._tokenizer.vocab_size:
            return known
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}/{name}".encode()).digest()[:7], "little")
        noise = torch.randn(1, known.shape[1], generator=torch.Generator().manual_seed(seed))
        return torch.cat([known, known.mean(0) + noise * known.std(0)])

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Megatron-core's, flat, under the keys a checkpoint has them under."""
        for name, tensor in from_hf_state(self, self._model, self._tokenizer.vocab_size):
            yield tensor_key(WEIGHTS, name), tensor.reshape(-1)


def _write_checkpoint(
    folder: Path, source: _Source, model: ModelConfig, tokenizer: PauseTokenizer, config: ConvertFromHfConfig
) -> None:
    records = _parameter_records(model, tokenizer.vocab_size)
    flat = {tensor_key(WEIGHTS, row.megatron): (math.prod(records[row.megatron].shape),) for row in rows_of(model)}
    files = divide(flat, element=torch.float32.itemsize, max_bytes=MAX_FILE_BYTES, stem="weights")
    write_tensors(folder, files, source.tensors(), torch.float32)
    manifest = Manifest(
        state=_state(config, model, tokenizer),
        optimizer={},
        files={file.name: file_record(folder / file.name) for file in files},
        parameters=records,
        fragments=[_fragment(file, key, length) for file in files for key, (length,) in file.shapes.items()],
    )
    manifest.check()
    write_json(folder / MANIFEST, manifest.to_plain())


def _fragment(file: TensorFile, key: str, length: int) -> Fragment:
    name = key.removeprefix(tensor_key(WEIGHTS, ""))
    return Fragment(file=file.name, name=name, tp_rank=0, tp_size=1, start=0, length=length)


def _parameter_records(model: ModelConfig, vocab_size: int) -> dict[str, ParameterRecord]:
    """How Megatron-core cuts every parameter, which one layer says of all of them."""
    with megatron_model(replace(model, num_layers=1), vocab_size) as local:
        once = {item.name: ParameterRecord.of(item.shard) for item in local.parameters}
    first = layer_prefix(0)
    names = {row.megatron for row in rows_of(model)}
    records: dict[str, ParameterRecord] = {}
    for name, record in once.items():
        repeats = range(model.num_layers) if name.startswith(first) else range(1)
        records |= {name.replace(first, layer_prefix(layer)): record for layer in repeats}
    assert set(records) == names, set(records) ^ names
    return records


def _state(config: ConvertFromHfConfig, model: ModelConfig, tokenizer: PauseTokenizer) -> dict[str, object]:
    """What a run's checkpoint says of itself, of one that has not been trained here yet."""
    return {
        "iteration": 0,
        "consumed_samples": 0,
        "real_tokens": 0,
        "pause_tokens": 0,
        "layout": "from Hugging Face",
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": tokenizer.sha256,
        "dataset": {"strategy": "none", "pause_rate": 0.0, "seq_length": model.max_position_embeddings},
        "config": {
            "model": to_plain(model),
            "tokenizer": str(config.output / TOKENIZER_FOLDER),
            "output": str(config.output),
            "data": [],
        },
        "converted_from": str(config.model),
        "versions": versions(),
    }


def _flags(model: ModelConfig) -> str:
    """The flags of ``pretrain`` that say what the model is."""
    default, given = to_plain(ModelConfig()), to_plain(model)
    flags = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        if value != default[name]:
            flags.append(f"--{flag} {value}" if not isinstance(value, bool) else f"--{'' if value else 'no-'}{flag}")
    return " ".join(flags)

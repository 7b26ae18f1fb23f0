"""``tools/convert_to_hf.py``: a checkpoint to a Hugging Face folder that stock transformers loads.

Written beside its final name, proven against the checkpoint, and only then renamed: a folder that exists is proven.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pause_megatron import log
from pause_megatron.atomic import new_folder, write_json
from pause_megatron.checkpoint.folders import find_checkpoint
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.config.blend import parse_blend
from pause_megatron.config.conversion import ConvertToHfConfig
from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.hf_config import hf_generation_config, hf_model_config
from pause_megatron.conversion.proof import Verdict, prove_export
from pause_megatron.conversion.table import to_hf_state
from pause_megatron.data.stored import StoredSequences
from pause_megatron.errors import UserError
from pause_megatron.preprocess.manifest import load_dataset_manifest
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.huggingface import prove_equal, to_huggingface
from pause_megatron.versions import versions

REPORT_FILE = "conversion_report.json"
REPORT_FORMAT = "pause_megatron/conversion/1"
TOKENIZER_TEXTS = 1000
"""Sequences of training text that the exported tokenizer is compared on, at most."""


def convert_to_hf(config: ConvertToHfConfig) -> None:
    """Convert a checkpoint; see :class:`~pause_megatron.config.conversion.ConvertToHfConfig`.

    Raises :class:`UserError` when the checkpoint is incomplete or damaged, the tokenizer is not the run's, the output
    exists, or the proof fails; no folder is left then.
    """
    checkpoint = find_checkpoint(config.checkpoint)
    with new_folder(config.output) as folder:
        reader = CheckpointReader(checkpoint)
        reader.verify()
        model = ModelConfig(**reader.state["config"]["model"])
        tokenizer = _tokenizer_of_run(reader, config.tokenizer)
        log.info(f"converting {checkpoint} ({reader.state['layout']}, iteration {reader.state['iteration']})")
        write_model(folder, reader, model, tokenizer)
        texts_compared = write_tokenizer(folder, tokenizer, reader.state["config"]["data"])
        verdict = prove_export(
            folder,
            reader,
            model,
            vocab_size=tokenizer.vocab_size,
            pause_id=tokenizer.pause_id,
            sequences=config.proof_sequences,
            tolerance=config.tolerance,
        )
        write_json(folder / REPORT_FILE, _report(checkpoint, reader, tokenizer, texts_compared, verdict))
    log.info(
        f"wrote {config.output}: logits differ by at most {verdict.max_abs_logit_difference:.1e}"
        f" over {verdict.positions} positions, {verdict.pauses} of them pauses"
    )


def _tokenizer_of_run(reader: CheckpointReader, path: Path | None) -> PauseTokenizer:
    tokenizer = PauseTokenizer.load(path or Path(reader.state["config"]["tokenizer"]))
    if tokenizer.sha256 != reader.state["tokenizer_sha256"]:
        raise UserError(f"--tokenizer {tokenizer.path} is not the one {reader.folder} was trained with")
    return tokenizer


def write_model(folder: Path, reader: CheckpointReader, model: ModelConfig, tokenizer: PauseTokenizer) -> None:
    """Write the checkpoint's model to ``folder``: ``model.safetensors`` (fp32), ``config.json`` and
    ``generation_config.json``, which never emits ``<pause>``."""
    hf_config = hf_model_config(model, vocab_size=tokenizer.vocab_size, eod_id=tokenizer.eod_id)
    with torch.device("meta"):
        hf_model = AutoModelForCausalLM.from_config(hf_config, dtype=torch.float32)
    state = dict(to_hf_state(reader.whole, model, tokenizer.vocab_size))
    _, unexpected = hf_model.load_state_dict(state, assign=True, strict=False)
    hf_model.tie_weights()
    unset = [name for name, parameter in hf_model.named_parameters() if parameter.is_meta]
    assert not unexpected, f"transformers has no {unexpected}"
    assert not unset, f"the conversion table gives no {unset}"
    hf_model.generation_config = hf_generation_config(pause_id=tokenizer.pause_id, eod_id=tokenizer.eod_id)
    hf_model.save_pretrained(folder)


def write_tokenizer(folder: Path, tokenizer: PauseTokenizer, data: Sequence[str]) -> int:
    """Write the tokenizer to ``folder`` and compare it, as stock transformers loads it, with the one of preprocessing.

    They are compared on the text of the first folder of the run's ``data`` as far as that is still there, and on
    awkward texts anyway.

    Returns the number of texts compared. Raises :class:`UserError` at the first that is encoded differently.
    """
    to_huggingface(tokenizer).save_pretrained(folder)
    texts = []
    try:
        path = parse_blend("--data", data)[0].folder
        stored = StoredSequences(path, load_dataset_manifest(path))
        texts = [tokenizer.decode(stored.get(index).tolist()) for index in range(min(len(stored), TOKENIZER_TEXTS))]
    except UserError as error:
        log.warn(f"the tokenizer is not compared on the training text: {error}")
    return prove_equal(tokenizer, AutoTokenizer.from_pretrained(folder), texts)


def _report(
    checkpoint: Path, reader: CheckpointReader, tokenizer: PauseTokenizer, texts_compared: int, verdict: Verdict
) -> dict[str, Any]:
    state = reader.state
    return {
        "format": REPORT_FORMAT,
        "pretraining": {
            "name": Path(state["config"]["output"]).name,
            "pauses": state["dataset"]["strategy"],
            "pause_rate": state["dataset"]["pause_rate"],
            "seq_length": state["dataset"]["seq_length"],
            "iterations": state["iteration"],
            "consumed_samples": state["consumed_samples"],
            "real_tokens": state["real_tokens"],
            "pause_tokens": state["pause_tokens"],
        },
        "tokenizer": {
            "sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
            "pause_id": tokenizer.pause_id,
            "eod_id": tokenizer.eod_id,
            "texts_compared": texts_compared,
        },
        "verdict": verdict.to_plain(),
        "source": {"checkpoint": str(checkpoint), "layout": state["layout"], "config": state["config"]},
        "versions": versions(),
    }

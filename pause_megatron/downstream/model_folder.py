"""A Hugging Face folder, read: the model, its tokenizer, and what pretraining and finetuning left written beside it.

Finetuning starts from such a folder and leaves another; evaluation and generation read either kind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pause_megatron.config.deepspeed import TORCH_DTYPES
from pause_megatron.config.downstream import Precision
from pause_megatron.errors import UserError

CONVERSION_REPORT = "conversion_report.json"
FINETUNE_MARKER = "finetune.json"
FINETUNE_FORMAT = "pause_megatron/finetune/1"
PAUSE_TOKEN = "<pause>"


@dataclass(frozen=True)
class ModelFolder:
    """A loaded model on the machine's device, with the ids and the history that belong to it."""

    path: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pause_id: int | None
    """``None`` for a model that does not know ``<pause>``."""
    eod_id: int
    """End-of-document, which ends a generated answer."""
    context_length: int
    """Positions the model can attend to (tokens)."""
    pretraining: dict[str, Any] | None
    """How it was pretrained, as the conversion wrote it; ``None`` for a model from elsewhere."""
    finetuning: dict[str, Any] | None
    """Its ``finetune.json``; ``None`` for a model that is not finetuned."""


def load_model_folder(path: Path, precision: Precision = "fp32", *, device: str | None = None) -> ModelFolder:
    """Load the folder's model and tokenizer, onto ``device`` or else onto the GPU where there is one.

    Raises :class:`UserError` for a folder that holds no causal language model with a tokenizer that ends documents.
    """
    for name in ("config.json", "tokenizer_config.json"):
        if not (path / name).is_file():
            raise UserError(f"{path}: no {name}; expected a Hugging Face folder, as tools/convert_to_hf.py writes")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=TORCH_DTYPES[precision])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a Hugging Face causal language model: {_first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: its tokenizer has no end-of-document token (eos_token)")
    pause_id = tokenizer.get_vocab().get(PAUSE_TOKEN)
    rows = model.get_input_embeddings().num_embeddings
    if pause_id is not None and pause_id >= rows:
        raise UserError(f"{path}: {PAUSE_TOKEN} has id {pause_id}, but the model has only {rows} embeddings")
    finetuning = _read_json(path / FINETUNE_MARKER)
    if finetuning is not None and finetuning.get("format") != FINETUNE_FORMAT:
        raise UserError(f"{path / FINETUNE_MARKER}: expected format {FINETUNE_FORMAT}; finetune the model again")
    report = _read_json(path / CONVERSION_REPORT)
    return ModelFolder(
        path=path,
        model=model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval(),
        tokenizer=tokenizer,
        pause_id=pause_id,
        eod_id=tokenizer.eos_token_id,
        context_length=model.config.max_position_embeddings,
        pretraining=(finetuning or report or {}).get("pretraining"),
        finetuning=finetuning,
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}; export or finetune the model again") from error
    return content


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

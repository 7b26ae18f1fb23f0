"""``<pause>`` added to the tokenizer and the embeddings of a loaded model: ``finetune --add-pause``."""

from dataclasses import replace
from typing import Any

import torch
from transformers.integrations import is_deepspeed_zero3_enabled

from pause_megatron import log
from pause_megatron.config.downstream import FinetuneConfig, PauseInitialization
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PAUSE_TOKEN
from pause_megatron.tokenizer.added_pause import with_pause
from pause_megatron.tokenizer.token_marks import only_pause_id


def load_base(config: FinetuneConfig, *, device: torch.device | str | None = None) -> ModelFolder:
    """Load the model to finetune, with ``<pause>`` added if ``config`` asks for it.

    Raises the errors of :func:`load_model_folder` and :func:`add_pause`.
    """
    base = load_model_folder(config.model, device=device)
    return add_pause(base, config.add_pause, seed=config.seed) if config.add_pause else base


@torch.no_grad()
def add_pause(folder: ModelFolder, initialization: PauseInitialization, *, seed: int = 0) -> ModelFolder:
    """Return ``folder`` with ``<pause>`` in the tokenizer, and change its model: a row of each vocabulary matrix.

    ``<pause>`` is the token after the last one. Matrices that are padded beyond the tokenizer keep their size;
    others grow by a row. The rows of the embeddings and of an untied output layer are the mean of the other tokens'
    rows, or drawn from a normal distribution with their mean and standard deviation in each dimension. Every process
    draws the same with the same ``seed``.

    Raises :class:`UserError` if the tokenizer has ``<pause>``, or cannot get it, and under ZeRO-3.
    """
    flag = f"--add-pause {initialization}"
    if folder.pause_ids:
        raise UserError(f"{flag}: {folder.path} already has {PAUSE_TOKEN} (token {folder.pause_id}); remove the flag")
    if is_deepspeed_zero3_enabled():
        raise UserError(f"{flag}: ZeRO-3 divides the weights before a row can be added; use ZeRO-2 or --fsdp")
    tokenizer = with_pause(folder.tokenizer, folder.model.config, flag)
    pause_id = only_pause_id(tokenizer.get_vocab())
    assert pause_id is not None
    model: Any = folder.model
    known = min(pause_id, model.get_input_embeddings().num_embeddings)
    if model.get_input_embeddings().num_embeddings <= pause_id:
        model.resize_token_embeddings(pause_id + 1, mean_resizing=False)
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tensors = [inputs.weight]
    if outputs is not None:
        tensors += [outputs.weight] if outputs.weight is not inputs.weight else []
        tensors += [outputs.bias] if getattr(outputs, "bias", None) is not None else []
    generator = torch.Generator().manual_seed(seed)
    for tensor in tensors:
        rows = tensor[:known].float()  # [known, hidden size], or [known] for a bias
        noise = torch.randn(pause_id + 1 - known, *rows.shape[1:], generator=generator).to(rows.device)
        spread = rows.std(0) if initialization == "normal" else torch.zeros_like(rows[0])
        tensor[known : pause_id + 1] = rows.mean(0) + noise * spread
    log.info(f"{folder.path}: added {PAUSE_TOKEN} as token {pause_id} of {inputs.num_embeddings} ({initialization})")
    return replace(folder, tokenizer=tokenizer, pause_id=pause_id)

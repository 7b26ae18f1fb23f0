"""Logits of a model with one layer in memory at a time, in Megatron-core and in transformers.

Both sides run their own library's code on a model of a single layer. After each layer, its weights are replaced by the
next layer's, and its output becomes the input. The embeddings and the output layer stay in memory throughout. Both
compute on the CPU, and neither uses a GPU that the process sees.

Shapes: B sequences, S positions, H hidden size, V vocabulary size, P padded vocabulary size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import Layout
from pause_megatron.errors import UserError
from pause_megatron.model.gpt import LocalModel, build_local_model
from pause_megatron.parallel.groups import destroy_process_groups

ONE_PROCESS = Layout(tp=1, pp=1, vp=1, dp=1, sequence_parallel=False, compile_layers="never")

Read = Callable[[str], torch.Tensor]
"""Returns the unsharded parameter of a name."""


@contextmanager
def megatron_model(model: ModelConfig, vocab_size: int) -> Iterator[LocalModel]:
    """Build ``model`` in Megatron-core on the CPU, not compiled, with the process groups of a single process.

    The groups exist inside the block only. They are gloo's, also in a process that sees a GPU.
    """
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        parallel_state.initialize_model_parallel()
        yield build_local_model(model, ONE_PROCESS, vocab_size=vocab_size, seed=0)
    finally:
        destroy_process_groups()


@torch.no_grad()
def megatron_logits_by_layer(read: Read, model: ModelConfig, vocab_size: int, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the Megatron-core model with the weights from ``read``: ``[B, S, V]``, fp32. ``tokens``: ``[B, S]``."""
    with megatron_model(replace(model, num_layers=1), vocab_size) as local:
        chunk: Any = local.chunks[0].eval()
        for item in local.parameters:
            if not item.name.startswith(layer_prefix(0)):
                item.parameter.copy_(read(item.name))
        positions = torch.arange(tokens.shape[1])[None]
        states = [chunk.embedding(sequence[None], positions) for sequence in tokens]  # B tensors [S, 1, H]
        rotary = chunk.rotary_pos_emb(tokens.shape[1]) if model.architecture == "llama" else None
        [layer] = chunk.decoder.layers
        for index in range(model.num_layers):
            for item in local.parameters:
                if item.name.startswith(layer_prefix(0)):
                    item.parameter.copy_(read(item.name.replace(layer_prefix(0), layer_prefix(index))))
            states = [layer(state, attention_mask=None, rotary_pos_emb=rotary)[0] for state in states]
        tied = None if model.untie_embeddings_and_output_weights else chunk.shared_embedding_or_output_weight()
        # B tensors [S, 1, P]: Megatron-core puts the sequence first
        logits = [chunk.output_layer(chunk.decoder.final_layernorm(state), weight=tied)[0] for state in states]
    return torch.cat(logits, 1).transpose(0, 1)[..., :vocab_size].float()


@torch.no_grad()
def hf_logits_by_layer(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the model in the Hugging Face folder ``folder``: ``[B, S, V]``. ``tokens``: ``[B, S]``.

    Computes in fp32, from the weights as they are stored.
    """
    config = AutoConfig.from_pretrained(folder)
    num_layers, config.num_hidden_layers = config.num_hidden_layers, 1
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    base = model.base_model
    norm_name = "ln_f" if hasattr(base, "ln_f") else "norm"
    norm = getattr(base, norm_name)
    stored = StoredWeights(folder)
    names = [name for name, _ in model.named_parameters()]
    _copy(model, stored, {name: name for name in names if ".0." not in name})
    states = [base.get_input_embeddings()(sequence[None]) for sequence in tokens]  # B tensors [1, S, H]
    for index in range(num_layers):
        _copy(model, stored, {name: name.replace(".0.", f".{index}.") for name in names if ".0." in name})
        # The model applies its final norm after its only layer, but only the last layer's output may be normalised.
        setattr(base, norm_name, norm if index == num_layers - 1 else torch.nn.Identity())
        states = [base(inputs_embeds=state, use_cache=False).last_hidden_state for state in states]
        if index == 0 and hasattr(base, "wpe"):
            base.wpe.weight.zero_()  # GPT-2 adds position embeddings at every call; they belong to the first one only
    return torch.cat([model.lm_head(state) for state in states]).float()


class StoredWeights:
    """Tensors of a folder's safetensors files, read one at a time; refuses a folder without or with damaged ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    self._files.update(dict.fromkeys(file.keys(), path))
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path}: damaged ({error}); fetch the file again") from error
        if not self._files:
            raise UserError(
                f"{folder}: no *.safetensors files, and pickled weights are not supported; save the model with"
                " save_pretrained of transformers first"
            )

    def __call__(self, name: str) -> torch.Tensor:
        """Read the tensor ``name``, with the dtype it is stored in.

        GPT-2 files often lack the output layer, and then also the prefix ``transformer.`` of all names. Raises
        :class:`UserError` if there is no such tensor.
        """
        found = next((known for known in (name, name.partition(".")[2]) if known in self._files), None)
        if found is None:
            raise UserError(f"{self._folder}: no tensor {name} in its safetensors files; fetch the model again")
        with safe_open(self._files[found], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(found)
        return tensor


def _copy(model: torch.nn.Module, stored: StoredWeights, names: dict[str, str]) -> None:
    for name, stored_name in names.items():
        model.get_parameter(name).copy_(stored(stored_name))


def layer_prefix(index: int) -> str:
    """Prefix of the Megatron-core names of a layer's parameters."""
    return f"decoder.layers.{index}."

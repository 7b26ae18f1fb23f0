"""Builds this rank's part of the model as Megatron-core's ``GPTModel``."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from pause_megatron.config.model import ModelConfig, padded_vocab_size
from pause_megatron.config.parallel import Layout
from pause_megatron.model.attention import ScaledDotProductAttention
from pause_megatron.model.compilation import compile_layers, layer_compilation
from pause_megatron.model.cross_entropy import vocab_parallel_cross_entropy
from pause_megatron.model.initialization import initialize_weights
from pause_megatron.model.layer import Layer, RecomputedMLP
from pause_megatron.model.linear import ColumnLinear, RowLinear
from pause_megatron.model.norm import HeadNorm, Norm
from pause_megatron.model.parameters import NamedParameter, named_parameters
from pause_megatron.model.rotary import AnglesOfPositions, keep_on_the_models_device, rotary_frequencies

logging.getLogger(GPTModel.__module__).setLevel(logging.ERROR)  # since 0.19 every model announces its successor


def transformer_config(model: ModelConfig, layout: Layout, dtype: torch.dtype = torch.float32) -> TransformerConfig:
    """Return Megatron-core's configuration of ``model`` under ``layout``.

    ``dtype`` is the data type of the activations that pipeline stages exchange.
    """
    llama = model.architecture == "llama"
    recomputes_layers = layout.recompute_granularity == "full"
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.query_groups,
        kv_channels=model.head_dim,
        qk_layernorm=model.qk_layernorm,
        normalization="RMSNorm" if llama else "LayerNorm",
        layernorm_epsilon=model.layernorm_epsilon,
        gated_linear_unit=llama,
        activation_func=F.silu if llama else partial(F.gelu, approximate="tanh") if model.gelu == "tanh" else F.gelu,
        add_bias_linear=not llama,
        add_qkv_bias=not llama or model.add_qkv_bias,
        init_method=_leave_undrawn,  # and so for the embeddings
        output_layer_init_method=_leave_undrawn,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vp if layout.vp > 1 else None,
        sequence_parallel=layout.sequence_parallel,
        pipeline_dtype=dtype,
        calculate_per_token_loss=True,  # training/loss.py divides the loss, not the schedule
        # With two stages the previous and the next rank are the same. Batched sends of the interleaved schedule then
        # match the wrong receives without an error and mix the losses of the chunks. Overlapped ones do not.
        overlap_p2p_comm=layout.vp > 1,
        batch_p2p_comm=layout.vp == 1,
        batch_p2p_sync=False,  # waits for the GPU after every exchange, because of an error in old PyTorch versions
        recompute_granularity="full" if recomputes_layers else None,
        recompute_method="uniform" if recomputes_layers else None,
        recompute_num_layers=layout.recompute_num_layers if recomputes_layers else None,
        use_cpu_initialization=True,
        bias_dropout_fusion=False,
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
    )


def _leave_undrawn(weights: torch.Tensor) -> None:
    """Stand in for Megatron-core's random weights, which :func:`initialize_weights` would overwrite.

    Megatron-core can also skip initialization, but then it does not record how the weights are sharded.
    """


class PauseGPT(GPTModel):
    """Megatron-core's GPT with our output layer, rotary angles and cross-entropy."""

    def __init__(self, model: ModelConfig, *, post_process: bool, **settings: Any) -> None:
        super().__init__(post_process=post_process, **settings)
        self._angles_of_positions = model.shares_positions and self.position_embedding_type == "rope"
        if post_process:
            self.output_layer.__class__ = ColumnLinear  # layer specs do not cover it
        if self.position_embedding_type == "rope":
            # Megatron-core's own scaling takes Llama 3.1's frequency factors and original context as constants
            self.rotary_pos_emb.inv_freq = rotary_frequencies(self.rotary_pos_emb.inv_freq, model)
            keep_on_the_models_device(self.rotary_pos_emb, shares_positions=model.shares_positions)

    def use_any_positions(self) -> None:
        """Compute rotary angles of the position indices of each input, which may be any in the model's context."""
        if self.position_embedding_type == "rope":
            self._angles_of_positions = True
            self.rotary_pos_emb.__class__ = AnglesOfPositions
            self.rotary_pos_emb.num_positions = self.max_sequence_length

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        """Run Megatron-core's forward pass with the rotary angles of ``position_ids``, int64 ``[B, S]``."""
        if self._angles_of_positions:
            self.rotary_pos_emb.position_ids = position_ids
        output: torch.Tensor = super().forward(input_ids, position_ids, *others, **named)
        return output

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy, ``[batch, sequence]`` as ``labels``, of ``logits`` ``[sequence, batch, V]``.

        V is this rank's slice of the vocabulary.
        """
        group = parallel_state.get_tensor_model_parallel_group()
        losses = vocab_parallel_cross_entropy(logits, labels.t().contiguous(), group)  # [sequence, batch]
        return losses.t().contiguous()


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """This rank's part of the model."""

    chunks: list[GPTModel]
    """One chunk per virtual pipeline stage."""
    parameters: list[NamedParameter]
    """Parameters of the chunks. Their shapes were recorded before ZeRO-3 empties the tensors."""


def build_local_model(
    model: ModelConfig, layout: Layout, *, vocab_size: int, seed: int | None, dtype: torch.dtype = torch.float32
) -> LocalModel:
    """Build and initialize this rank's part of the model. Megatron-core's process groups must exist.

    The initial weights depend on ``seed`` only, not on ``layout``; without a seed the memory keeps what it holds, for
    callers that set every parameter. ``vocab_size`` is the size of the tokenizer with
    ``<pause>``; rows are padded to a fixed multiple. ``dtype`` is explained at :func:`transformer_config`.
    """
    config = transformer_config(model, layout, dtype)
    chunks = [_build_chunk(model, config, vocab_size, stage, layout) for stage in range(layout.vp)]
    parameters = named_parameters(chunks)
    if seed is not None:
        initialize_weights(parameters, std=model.init_method_std, num_layers=model.num_layers, seed=seed)
    return LocalModel(chunks=chunks, parameters=parameters)


def _build_chunk(
    model: ModelConfig, config: TransformerConfig, vocab_size: int, stage: int, layout: Layout
) -> GPTModel:
    vp_stage = stage if layout.vp > 1 else None
    layer = get_gpt_layer_local_spec(normalization=config.normalization)
    layer.module = Layer
    layer.submodules.input_layernorm = Norm
    layer.submodules.pre_mlp_layernorm = Norm
    attention, mlp = _parts(layer.submodules.self_attention), _parts(layer.submodules.mlp)
    attention.core_attention = ScaledDotProductAttention
    attention.linear_qkv, attention.linear_proj = ColumnLinear, RowLinear
    if model.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = HeadNorm
    mlp.linear_fc1, mlp.linear_fc2 = ColumnLinear, RowLinear
    block = TransformerBlockSubmodules(layer_specs=[layer] * get_num_layers_to_build(config, vp_stage), layer_norm=Norm)
    chunk = PauseGPT(
        model,
        config=config,
        transformer_layer_spec=block,
        vocab_size=padded_vocab_size(vocab_size),
        max_sequence_length=model.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
        share_embeddings_and_output_weights=not model.untie_embeddings_and_output_weights,
        position_embedding_type="rope" if model.architecture == "llama" else "learned_absolute",
        rotary_base=model.rotary_base,
        vp_stage=vp_stage,
    )
    if layout.recompute_granularity == "selective":
        for built in chunk.decoder.layers:
            built.mlp.__class__ = RecomputedMLP  # in the layer spec Megatron-core would not recognise it as an MLP
    if layer_compilation(layout.compile_layers).compiles:
        compile_layers(chunk)
    return chunk


def _parts(spec: Any) -> Any:
    """Return the classes of the parts of a spec: since Megatron-core 0.18 some specs are partial functions."""
    return spec.keywords["submodules"] if isinstance(spec, partial) else spec.submodules

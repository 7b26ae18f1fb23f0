"""Parameters of one rank, and the bytes of their weights, gradients and optimizer state.

The optimizer is AdamW on fp32 master weights: 12 bytes per parameter, which all ZeRO stages but 0 divide over the
data-parallel ranks. Under ZeRO-0 and -1 gradients are flat buffers that are reduced in place, and in fp32 the
optimizer updates the model's own weights (``engine/flat_updater.py``). DeepSpeed's own paths copy gradients to buckets,
and have a second copy of the weights in fp32 too.
"""

from dataclasses import dataclass

from pause_megatron.config.deepspeed import DeepSpeedFile, Precision
from pause_megatron.config.model import ModelConfig, padded_vocab_size
from pause_megatron.config.parallel import Layout

ELEMENT: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of one number."""
_FP32 = 4
_MOMENTS = 2 * _FP32
_MASTER_AND_MOMENTS = 3 * _FP32
_DEFAULTS = {
    "reduce_bucket_size": 500_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
}
"""DeepSpeed's defaults, in elements."""


@dataclass(frozen=True, kw_only=True)
class StageParameters:
    """Parameters of one rank of a pipeline stage."""

    embeddings: int
    """Word embeddings with padding rows, and learned positions; first stage only."""
    layers: int
    output: int
    """Final norm and output layer; last stage only. A tied output layer counts only if the stage needs a copy of the
    embeddings, because it is not the first stage too."""
    largest: int
    """Size of the largest parameter."""

    @property
    def total(self) -> int:
        """Sum."""
        return self.embeddings + self.layers + self.output


def stage_parameters(model: ModelConfig, layout: Layout, *, vocab_size: int, stage: int) -> StageParameters:
    """Return the parameters of each rank of pipeline stage ``stage``, 0 to ``layout.pp - 1``, without ZeRO-3.

    ``vocab_size`` is the tokenizer's. The chunks of an interleaved schedule divide a stage without changing the sum.
    """
    hidden, ffn = model.hidden_size, model.ffn_size
    first, last = stage == 0, stage == layout.pp - 1
    vocabulary = padded_vocab_size(vocab_size) * hidden // layout.tp
    positions = model.max_position_embeddings * hidden if model.architecture == "gpt2" else 0
    own_output = model.untie_embeddings_and_output_weights or not first
    mlp_in = hidden * ffn * (2 if model.architecture == "llama" else 1) // layout.tp
    attention_in = hidden * (model.query_size + 2 * model.key_size) // layout.tp
    return StageParameters(
        embeddings=vocabulary + positions if first else 0,
        layers=model.num_layers // layout.pp * model.layer_parameters(layout.tp),
        output=model.norm_parameters + (vocabulary if own_output else 0) if last else 0,
        largest=max(mlp_in, attention_in, positions if first else 0, vocabulary if first or last else 0),
    )


@dataclass(frozen=True, kw_only=True)
class ModelStates:
    """Bytes of one rank."""

    weights: int
    """Weights in the model's precision; under ZeRO-3 with those that are gathered at the same time."""
    gradients: int
    """Accumulated gradients, and the largest single gradient before it is accumulated."""
    optimizer: int
    """Both moments, and the fp32 master weights unless they are the model's own."""
    communication: int
    """DeepSpeed's buckets for reducing gradients and gathering weights."""
    update: int
    """Temporary memory of the update, after the activations are freed: gradients in fp32."""
    host: int
    """CPU memory under offloading."""

    @property
    def resident(self) -> int:
        """Bytes on the device during forward and backward."""
        return self.weights + self.gradients + self.optimizer + self.communication


def model_states(
    parameters: StageParameters, deepspeed: DeepSpeedFile, *, dp: int, num_microbatches: int
) -> ModelStates:
    """Return the bytes of weights, gradients and optimizer state of one of ``dp`` data-parallel ranks.

    ``num_microbatches`` is the number per step.
    """
    total, element, offloads = parameters.total, ELEMENT[deepspeed.precision], deepspeed.offload_optimizer
    part = total if deepspeed.zero_stage == 0 else -(-total // dp)
    gradients = _gradient_bytes(parameters, deepspeed, part, num_microbatches)
    shared = deepspeed.precision == "fp32" and deepspeed.gradients_stay_whole and not offloads
    weights = (part if deepspeed.zero_stage == 3 else total) * element
    offloaded_weights = weights if deepspeed.offload_parameters else 0
    return ModelStates(
        weights=weights - offloaded_weights + _gathered(parameters, deepspeed) * element,
        gradients=gradients + parameters.largest * element,
        optimizer=0 if offloads else part * (_MOMENTS if shared else _MASTER_AND_MOMENTS),
        communication=_bucket_elements(parameters, deepspeed) * element,
        update=0 if offloads or deepspeed.grad_dtype == "fp32" else part * _FP32,
        host=_host_bytes(parameters, deepspeed, part, num_microbatches) + offloaded_weights,
    )


def _gradient_bytes(parameters: StageParameters, deepspeed: DeepSpeedFile, part: int, num_microbatches: int) -> int:
    accumulated = ELEMENT[deepspeed.grad_dtype]
    if deepspeed.zero_stage < 2:  # all of them exist on the device even if they are offloaded later
        return parameters.total * accumulated
    if deepspeed.offload_optimizer:
        return 0
    # ZeRO-2 holds a microbatch's partition and the sum at the same time, unless the sum has a higher precision.
    twice = deepspeed.zero_stage == 2 and num_microbatches > 1 and deepspeed.grad_dtype == deepspeed.precision
    return part * accumulated * (2 if twice else 1)


def _gathered(parameters: StageParameters, deepspeed: DeepSpeedFile) -> int:
    """Maximum number of weights that ZeRO-3 keeps gathered: those in use, or soon used again."""
    if deepspeed.zero_stage < 3:
        return 0
    kept = max(_setting(deepspeed, "stage3_max_live_parameters"), _setting(deepspeed, "stage3_max_reuse_distance"))
    return min(parameters.total, max(kept, 2 * parameters.largest))


def _bucket_elements(parameters: StageParameters, deepspeed: DeepSpeedFile) -> int:
    if deepspeed.gradients_stay_whole:
        return 0
    reduced = _setting(deepspeed, "reduce_bucket_size")
    if deepspeed.zero_stage == 3:
        return reduced + min(parameters.total, _setting(deepspeed, "stage3_prefetch_bucket_size"))
    both = 2 if deepspeed.values.get("zero_optimization", {}).get("overlap_comm") else 1
    return both * reduced + (parameters.largest if deepspeed.offload_optimizer else 0)


def _host_bytes(parameters: StageParameters, deepspeed: DeepSpeedFile, part: int, num_microbatches: int) -> int:
    """CPU bytes of an offloaded optimizer: its state, gradients in fp32, and gradients as they arrive."""
    if not deepspeed.offload_optimizer:
        return 0
    element = ELEMENT[deepspeed.precision]
    state = part * (_MASTER_AND_MOMENTS + _FP32)
    if deepspeed.zero_stage == 3:
        return state + part * ELEMENT[deepspeed.grad_dtype]
    weights = part * element
    if deepspeed.gradients_stay_whole:
        return state + weights
    return state + weights + (part if num_microbatches > 1 else 0) * element + parameters.largest * element


def _setting(deepspeed: DeepSpeedFile, name: str) -> int:
    """Return a size from the DeepSpeed file (which may be written as 5e8), or DeepSpeed's default."""
    return int(deepspeed.values.get("zero_optimization", {}).get(name, _DEFAULTS[name]))

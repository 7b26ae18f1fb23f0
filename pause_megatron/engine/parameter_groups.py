"""Parameter groups of the optimizer, which are also the buckets of communication.

DeepSpeed partitions each parameter group over the data-parallel ranks. Several groups of a limited size are therefore
buckets whose gradients can be reduced, and whose weights can be gathered, one at a time. In checkpoints nothing shows
of them.
"""

from collections.abc import Iterator, Sequence

from pause_megatron.config.deepspeed import DeepSpeedFile
from pause_megatron.model.parameters import NamedParameter

_BUCKET_ELEMENTS = 50_000_000
"""Default of ``reduce_bucket_size``. In fp32 200 MB: enough for the bandwidth of 64 GPUs, a fraction of a model."""

Group = dict[str, object]


def bucket_elements(deepspeed_file: DeepSpeedFile) -> int:
    """Return the size at which a bucket is full: ``reduce_bucket_size``, which may be written as 5e7."""
    return int(deepspeed_file.values.get("zero_optimization", {}).get("reduce_bucket_size", _BUCKET_ELEMENTS))


def parameter_groups(
    parameters: Sequence[NamedParameter], weight_decay: float, *, bucket: int | None = None
) -> list[Group]:
    """Return the groups: vectors (biases and norms) without weight decay, and matrices with it.

    Without ``bucket`` there is one group of each; the order is the same on every pipeline stage. With ``bucket``,
    matrices are divided into groups of at least this number of elements, in the order of the forward pass. Vectors
    remain one group. Those that are summed over the tensor-parallel ranks come first, so that one call can sum all of
    them.
    """
    matrices = [item for item in parameters if len(item.shard.global_shape) > 1]
    vectors = [item for item in parameters if len(item.shard.global_shape) == 1]
    vectors.sort(key=lambda item: not getattr(item.parameter, "sequence_parallel", False))
    buckets = [matrices] if bucket is None else list(_buckets(matrices, bucket))
    groups = [(vectors, 0.0), *((matrices, weight_decay) for matrices in buckets)]
    return [{"params": [item.parameter for item in items], "weight_decay": decay} for items, decay in groups if items]


def _buckets(matrices: Sequence[NamedParameter], size: int) -> Iterator[list[NamedParameter]]:
    bucket: list[NamedParameter] = []
    for item in matrices:
        # Tied embeddings are reduced last, after the two pipeline stages that hold them; no other parameter waits.
        alone = getattr(item.parameter, "shared_embedding", False)
        if bucket and (alone or sum(other.parameter.numel() for other in bucket) >= size):
            yield bucket
            bucket = []
        bucket.append(item)
        if alone:
            yield bucket
            bucket = []
    if bucket:
        yield bucket

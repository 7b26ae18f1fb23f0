"""The proof of an export computes on the CPU, also in a process that sees a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.one_layer import megatron_logits_by_layer, megatron_model
from pause_megatron.conversion.proof import megatron_logits, proof_sequences
from pause_megatron.model.initialization import initialize_weights
from tests.distributed import run_distributed
from tests.training.runs import GPT2, LLAMA, PAUSE_ID, VOCAB_SIZE


def proven_beside_a_gpu(model: ModelConfig) -> tuple[str, float]:
    """The backend of the proof's process group, and how much its two methods differ.

    The process believes that it sees a GPU. Any use of it, and any compilation, raises an error.
    """
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.compile = None  # type: ignore[assignment]
    with megatron_model(model, VOCAB_SIZE) as local:
        backend = dist.get_backend()
        initialize_weights(local.parameters, std=0.1, num_layers=model.num_layers, seed=0)
        weights = {item.name: item.parameter.detach().clone() for item in local.parameters}
    tokens, positions = proof_sequences(2, 16, model, num_tokens=VOCAB_SIZE, pause_ids=[PAUSE_ID])
    proofs = (megatron_logits, megatron_logits_by_layer)
    whole, by_layer = (proof(weights.__getitem__, model, VOCAB_SIZE, tokens, positions) for proof in proofs)
    return backend, float((whole - by_layer).abs().max())


@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_proof_uses_neither_a_gpu_nor_nccl_nor_a_compiler(model: ModelConfig) -> None:
    [(backend, difference)] = run_distributed(proven_beside_a_gpu, 1, model)
    assert backend == "fake"
    assert difference < 1e-5

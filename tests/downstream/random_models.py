"""Tiny random models of both architectures."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

CONTEXT_LENGTH = 64
ARCHITECTURES = ("gpt2", "llama")


def random_model(
    architecture: str, vocab_size: int, seed: int = 0, attention: str = "sdpa", context_length: int = CONTEXT_LENGTH
) -> PreTrainedModel:
    """A random model with large enough weights that attention and positions matter to its logits."""
    torch.manual_seed(seed)
    common = {"vocab_size": vocab_size, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": 1}
    if architecture == "gpt2":
        no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(n_positions=context_length, n_embd=32, n_layer=2, n_head=4, **no_dropout, **common)
        return GPT2LMHeadModel._from_config(config, attn_implementation=attention).eval()
    config = LlamaConfig(
        max_position_embeddings=context_length,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **common,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation=attention).eval()

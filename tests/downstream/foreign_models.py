"""Tiny random models in the shapes of published ones, with tokenizers of their kind and without ``<pause>``."""

import json
from pathlib import Path
from pydoc_data import topics

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from pause_megatron.tokenizer.tokenizer_json import WORD_PATTERNS

CONTEXT_LENGTH = 96
SHAPES = ("llama3", "qwen2", "qwen3", "pythia", "smollm2")
PADDING = 24
"""Rows of an embedding beyond the tokenizer's tokens, in models that have such rows."""
_CHAT = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"


def make_model(shape: str, folder: Path) -> Path:
    """Write a model of ``shape`` with its tokenizer to ``folder``, as a hub has it."""
    tokenizer, settings = _tokenizer(shape)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    vocab_size = tokenizer.get_vocab_size()
    torch.manual_seed(0)
    config = _config(shape, vocab_size if shape in ("llama3", "smollm2") else vocab_size + PADDING)
    config.eos_token_id = tokenizer.token_to_id(settings["eos_token"])
    config.bos_token_id = config.pad_token_id = None
    model = AutoModelForCausalLM.from_config(config)
    model.eval().save_pretrained(folder)
    return folder


def _config(shape: str, vocab_size: int) -> PretrainedConfig:
    common = {"vocab_size": vocab_size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    common |= {"initializer_range": 0.2, "max_position_embeddings": CONTEXT_LENGTH}
    gated = {**common, "intermediate_size": 64, "num_key_value_heads": 2}
    scaled = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0}
    scaled |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    long = {"rope_type": "longrope", "rope_theta": 500_000.0, "factor": 3.0, "short_factor": [1.0] * 4}
    long |= {"long_factor": [8.0] * 4, "original_max_position_embeddings": 32}
    configs = {
        "llama3": lambda: LlamaConfig(**gated, rope_parameters=scaled, tie_word_embeddings=False),
        "qwen2": lambda: Qwen2Config(**gated, tie_word_embeddings=True),
        "qwen3": lambda: Qwen3Config(**gated, head_dim=16, tie_word_embeddings=False),
        "pythia": lambda: GPTNeoXConfig(**common, intermediate_size=64, rotary_pct=0.25, tie_word_embeddings=False),
        "smollm2": lambda: LlamaConfig(**gated, tie_word_embeddings=True),
        "bloom": lambda: BloomConfig(vocab_size=vocab_size, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2),
        "mistral": lambda: MistralConfig(**gated, sliding_window=16),
        "lfm2": lambda: Lfm2Config(**gated, layer_types=["full_attention", "conv"]),
        "gptneo": lambda: GPTNeoConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=16,
            max_position_embeddings=CONTEXT_LENGTH,
            initializer_range=0.2,
        ),
        "longrope": lambda: LlamaConfig(**gated, rope_parameters=long, tie_word_embeddings=False),
        "mamba": lambda: MambaConfig(vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2, state_size=8),
    }
    return configs[shape]()


def _tokenizer(shape: str) -> tuple[Tokenizer, dict]:
    """A byte-level BPE tokenizer with the added tokens of its kind, and its ``tokenizer_config.json``."""
    tokenizer = Tokenizer(models.BPE())
    pattern = WORD_PATTERNS[0] if shape == "llama3" else WORD_PATTERNS[1]
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    splitting = {
        "pythia": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]),
    }
    byte_level = pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = splitting.get(shape, pre_tokenizers.Sequence([split, byte_level]))
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        topics.topics.values(), trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    end = "<|end_of_text|>" if shape == "llama3" else "<|endoftext|>"
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in (end, "<|im_start|>", "<|im_end|>")])
    settings = {"eos_token": end, "model_max_length": CONTEXT_LENGTH, "clean_up_tokenization_spaces": False}
    classes = {"qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "pythia": "GPTNeoXTokenizer"}
    settings["tokenizer_class"] = classes.get(shape, "PreTrainedTokenizerFast")
    if shape == "llama3":
        tokenizer.add_special_tokens([AddedToken("<|begin_of_text|>", normalized=False)])
        start = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
        tokenizer.post_processor = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[start])
        settings["bos_token"] = "<|begin_of_text|>"
    if shape == "pythia":  # runs of spaces are added tokens that are not special
        tokenizer.add_tokens([AddedToken(" " * length, normalized=True) for length in (4, 3, 2)])
    if shape == "qwen3":
        tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    if shape in ("qwen2", "qwen3"):
        settings["chat_template"] = _CHAT
    return tokenizer, settings

"""What ``conversion.py`` measures that is no command of this project: making a model, and writing an export alone."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.hf_config import hf_model_config
from pause_megatron.conversion.to_hf import write_model
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.huggingface import to_huggingface


def make(output: Path, tokenizer_folder: Path, num_layers: int) -> None:
    """Write a Hugging Face folder with a random Llama."""
    tokenizer = PauseTokenizer.load(tokenizer_folder)
    model = ModelConfig(
        architecture="llama",
        num_layers=num_layers,
        hidden_size=1024,
        num_attention_heads=16,
        max_position_embeddings=128,
    )
    config = hf_model_config(model, vocab_size=tokenizer.vocab_size, eod_id=tokenizer.eod_id)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(output)
    to_huggingface(tokenizer).save_pretrained(output)


def write(checkpoint: Path, output: Path) -> None:
    """Write the checkpoint's weights to ``output`` as an export, without checking or proving anything."""
    reader = CheckpointReader(checkpoint)
    model = ModelConfig(**reader.state["config"]["model"])
    output.mkdir()
    write_model(output, reader, model, PauseTokenizer.load(checkpoint / "tokenizer"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", output, tokenizer, num_layers]:
            make(Path(output), Path(tokenizer), int(num_layers))
        case ["write", checkpoint, output]:
            write(Path(checkpoint), Path(output))
        case _:
            raise SystemExit("started by conversion.py")

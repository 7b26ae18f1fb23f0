"""The tiny tokenizer, models and task of the downstream tests."""

from tests.downstream.conftest import model_path, parity_data, tokenizer

__all__ = ["model_path", "parity_data", "tokenizer"]

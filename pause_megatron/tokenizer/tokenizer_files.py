"""Copies of a tokenizer's files."""

import shutil
from pathlib import Path

from pause_megatron.tokenizer.pause_tokenizer import MODEL_FILE, PauseTokenizer
from pause_megatron.tokenizer.tokenizers_backend import CONFIG_FILE, TOKENIZER_FILE


def copy_tokenizer(tokenizer: PauseTokenizer, folder: Path) -> None:
    """Write the file of ``tokenizer``, and the settings beside it, to ``folder``."""
    is_json = tokenizer.path.suffix == ".json"
    shutil.copyfile(tokenizer.path, folder / (TOKENIZER_FILE if is_json else MODEL_FILE))
    config = tokenizer.path.with_name(CONFIG_FILE)
    if config.exists():
        shutil.copyfile(config, folder / CONFIG_FILE)

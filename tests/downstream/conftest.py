"""Fixtures made on the spot: a tiny real tokenizer, folders of tiny random models, and a small generated task."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data import topics

import pytest

from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.downstream.generated_tasks import write_task
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.huggingface import to_huggingface
from pause_megatron.tokenizer.make_tokenizer import train_tokenizer
from tests.downstream.random_models import ARCHITECTURES, random_model


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PauseTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in topics.topics.values()), encoding="utf-8")
    train_tokenizer(TokenizerConfig(input=(str(corpus),), output=folder / "model", vocab_size=512))
    return PauseTokenizer.load(folder / "model")


@pytest.fixture(scope="session")
def model_path(tokenizer: PauseTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a random model by architecture, with ``<pause>`` in its tokenizer."""
    paths: dict[str, Path] = {}

    def path_of(architecture: str) -> Path:
        if architecture not in paths:
            paths[architecture] = tmp_path_factory.mktemp(architecture)
            random_model(architecture, tokenizer.vocab_size).save_pretrained(paths[architecture])
            to_huggingface(tokenizer).save_pretrained(paths[architecture])
        return paths[architecture]

    return path_of


@pytest.fixture(params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, model_path: Callable[[str], Path]) -> ModelFolder:
    """A random model, loaded as the commands load it; once for each architecture."""
    return load_model_folder(model_path(request.param))


@pytest.fixture(scope="session")
def parity_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "parity"
    write_task("parity", path, seed=0, train=200, validation=10, test=20)
    return path


@pytest.fixture
def positions_read(folder: ModelFolder) -> Iterator[list[tuple[int, int]]]:
    """Shape of the ids of every forward pass, without those of the trials."""
    assert folder.sharing_problem is None
    assert folder.branching_problem is None
    read: list[tuple[int, int]] = []
    handle = folder.model.register_forward_pre_hook(
        lambda _, inputs, named: read.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    yield read
    handle.remove()

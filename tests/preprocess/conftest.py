from pathlib import Path

import numpy as np
import pytest

from pause_megatron.config.preprocess import PreprocessConfig
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.preprocess.manifest import load_dataset_manifest
from pause_megatron.preprocess.pydoc_corpus import write_pydoc_corpus
from pause_megatron.preprocess.run import preprocess
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.training import train_tokenizer

C4 = Path(__file__).parents[3] / "shared" / "data" / "c4"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_pydoc_corpus(tmp_path_factory.mktemp("pydoc") / "corpus", train_shards=3)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    train_tokenizer(TokenizerConfig(input=tuple(map(str, corpus.train)), output=folder, vocab_size=1024))
    return PauseTokenizer.load(folder)


@pytest.fixture(scope="session")
def c4_inputs():
    if not C4.is_dir():
        pytest.skip("real C4 text is not here; preprocessing it was not checked")
    return (str(C4 / "c4-train.json.gz"), str(C4 / "c4-validation.json.gz"))


@pytest.fixture(scope="session")
def config_for(corpus, tokenizer):
    """A configuration for the training shards of the pydoc corpus, with changes."""

    def make(output, **changes):
        defaults = {
            "input": tuple(map(str, corpus.train)),
            "tokenizer": tokenizer.path,
            "seq_length": 256,
            "workers": 1,
        }
        return PreprocessConfig(**{**defaults, "output": output, **changes})

    return make


@pytest.fixture(scope="session")
def written(config_for):
    """A function that preprocesses and returns the manifest and, for each shard, the stored sequences."""

    def run(output, **changes):
        preprocess(config_for(output, **changes))
        manifest = load_dataset_manifest(output, verify_hashes=True)
        return manifest, [
            np.fromfile(output / f"{shard.name}.bin", dtype=np.uint16).reshape(-1, manifest.seq_length)
            for shard in manifest.shards
        ]

    return run

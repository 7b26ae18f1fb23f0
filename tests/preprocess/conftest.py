import gzip
import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from pause_megatron.preprocess.run import preprocess
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.make_tokenizer import train_tokenizer
from tests.chain import preprocess_config, verified

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
def c4_shards(c4_inputs, tmp_path_factory):
    """The real text cut into six shards of unequal size."""
    folder = tmp_path_factory.mktemp("c4")
    lines = gzip.decompress(Path(c4_inputs[0]).read_bytes()).splitlines(keepends=True)
    cuts = [0, 600, 1000, 1300, 1500, 1800, 2000]
    for shard, (start, end) in enumerate(pairwise(cuts)):
        path = folder / f"c4-train.{shard:05d}-of-00006.json.gz"
        path.write_bytes(gzip.compress(b"".join(lines[start:end]), mtime=0))
    return (str(folder / "*.json.gz"),)


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
        return preprocess_config(**{**defaults, "output": output, **changes})

    return make


@pytest.fixture(scope="session")
def written(config_for):
    """A function that preprocesses and returns the manifest and, for each shard, the stored tokens in rows."""

    def run(output, **changes):
        preprocess(config_for(output, **changes))
        manifest = verified(output)
        return manifest, [rows_of(output, shard, manifest.seq_length) for shard in manifest.shards]

    return run


def rows_of(folder, shard, seq_length):
    """The stored sequences of a shard; a list of documents where they are of different lengths."""
    tokens = np.fromfile(folder / f"{shard.name}.bin", dtype=np.uint16)
    if seq_length:
        return tokens.reshape(-1, seq_length)
    dataset = IndexedDataset(str(folder / shard.name))
    return [dataset[i].copy() for i in range(len(dataset))]  # its memory map is closed with it


def contents(folder):
    """The dataset's files and what is in them; the progress logs are no part of it."""
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def token_hashes(folder):
    """SHA-256 of the .bin and .idx files, by name."""
    files = [path for path in folder.iterdir() if path.suffix in (".bin", ".idx")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

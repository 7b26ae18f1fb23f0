import gzip
import io
import json
import pydoc_data.topics
from pathlib import Path

import pytest
from sentencepiece import SentencePieceTrainer

from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.make_tokenizer import add_pause, train_tokenizer
from tests.tokenizer.foreign import KINDS, make_foreign

C4 = Path(__file__).parents[3] / "shared" / "data" / "c4"


@pytest.fixture(scope="session")
def pydoc_texts():
    return list(pydoc_data.topics.topics.values())


@pytest.fixture(scope="session")
def pydoc_jsonl(tmp_path_factory, pydoc_texts):
    path = tmp_path_factory.mktemp("corpus") / "pydoc.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in pydoc_texts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory, pydoc_jsonl):
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    train_tokenizer(TokenizerConfig(input=(str(pydoc_jsonl),), output=folder, vocab_size=2048))
    return folder


@pytest.fixture(scope="session")
def c4_texts():
    if not C4.is_dir():
        pytest.skip("real C4 text is not here; equality of the tokenizers on it was not checked")
    texts = []
    for name in ("c4-train.json.gz", "c4-validation.json.gz"):
        with gzip.open(C4 / name, "rt", encoding="utf-8") as file:
            texts += [json.loads(line)["text"] for line in file]
    return texts


@pytest.fixture(scope="session")
def sentencepiece_model():
    """A function that trains a SentencePiece model without this project's settings."""

    def train(texts, **settings):
        model = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter([line for text in texts for line in text.split("\n")]),
            model_writer=model,
            **{"vocab_size": 1000, "minloglevel": 2, **settings},
        )
        return model.getvalue()

    return train


@pytest.fixture(scope="session")
def foreign_files(tmp_path_factory, pydoc_texts):
    """The file of a tokenizer of each kind in KINDS, without <pause>, by kind."""
    folder = tmp_path_factory.mktemp("foreign")
    return {kind: make_foreign(folder / kind, kind, pydoc_texts) for kind in KINDS}


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory, foreign_files, tokenizer_folder):
    """A tokenizer of each kind in KINDS, with <pause> added, by kind, and the one trained here as 'trained'."""
    folder = tmp_path_factory.mktemp("with_pause")
    for kind, file in foreign_files.items():
        add_pause(file, folder / kind)
    return {
        **{kind: PauseTokenizer.load(folder / kind) for kind in foreign_files},
        "trained": PauseTokenizer.load(tokenizer_folder),
    }

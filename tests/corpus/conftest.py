import pytest

from pause_megatron.corpus.pydoc import write_pydoc_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_pydoc_corpus(tmp_path_factory.mktemp("pydoc") / "corpus", train_shards=3)

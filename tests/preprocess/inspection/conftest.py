import pytest

from tests.preprocess.finished_datasets import write_datasets


@pytest.fixture(scope="session")
def datasets(tmp_path_factory, config_for):
    """Folder of a dataset of every kind."""
    return write_datasets(tmp_path_factory.mktemp("datasets"), config_for)

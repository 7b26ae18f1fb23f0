import pytest

from pause_megatron.config.dataset import MergeDatasetsConfig, VerifyDatasetConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.merge import merge_datasets
from pause_megatron.preprocess.verification.verify_dataset import verify_dataset
from tests.preprocess.finished_datasets import EOD, KINDS, PAUSE, Damaged, write_datasets


@pytest.fixture(scope="session")
def datasets(tmp_path_factory, config_for, tokenizer):
    """Folder of a dataset of every kind, and of each merged."""
    assert (tokenizer.pause_id, tokenizer.eod_id) == (PAUSE, EOD)
    folder = write_datasets(tmp_path_factory.mktemp("datasets"), config_for)
    for name in (*KINDS, "none"):
        merge_datasets(MergeDatasetsConfig(input=(folder / name,), output=folder / f"{name}-merged"))
    return folder


@pytest.fixture
def damaged(datasets, tmp_path):
    """A copy of a dataset to be damaged."""
    return lambda name: Damaged(datasets / name, tmp_path / name)


@pytest.fixture
def faults(capsys):
    """The faults found in a folder, one a line, without the folder's name; none if it is whole."""

    def verify(folder, **options):
        capsys.readouterr()
        try:
            verify_dataset(VerifyDatasetConfig(data=folder, **{"workers": 1, **options}))
        except UserError as error:
            lines = capsys.readouterr().out.splitlines()
            if not str(error).startswith(f"{folder}: {len(lines)} fault"):
                raise
            return [line.replace(f"{folder}/", "") for line in lines]
        return []

    return verify

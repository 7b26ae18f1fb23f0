"""Datasets with distinct pauses: those of one pause, with the pauses numbered by their places in their runs."""

import numpy as np
import pytest

from pause_megatron.config.dataset import VerifyDatasetConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.shard_spans import spans_of
from pause_megatron.preprocess.verification.verify_dataset import verify_dataset
from tests.chain import verified, write_dataset, write_text_and_tokenizer

PAUSES = (2, 3)
STRATEGIES = {
    "sequence": {"pause_rate": 0.5},
    "document": {"pauses": "document", "pause_rate": 0.5},
    "every": {"pauses": "every", "pauses_per_token": 3},
    "none": {"pauses": "none"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distinct")
    write_text_and_tokenizer(folder, distinct_pauses=2)
    for name, settings in STRATEGIES.items():
        write_dataset(folder, name, **settings)
    return folder


def rows(folder, name):
    """Ids of each stored sequence, without use of our reader."""
    manifest = verified(folder / name)
    for span in spans_of(folder / name, manifest):
        tokens = np.fromfile(span.bin_path, np.uint16)
        lengths = np.fromfile(span.idx_path, np.int32, span.shard.sequences, offset=34)
        yield from np.split(tokens, np.cumsum(lengths)[:-1])


@pytest.mark.parametrize("name", STRATEGIES)
def test_pauses_are_numbered_by_their_places_in_runs(folder, name):
    longest = 0
    for row in rows(folder, name):
        run = 0
        for token in row.tolist():
            run = run + 1 if token in PAUSES else 0
            assert token not in PAUSES or token == PAUSES[min(run, 2) - 1]
            longest = max(longest, run)
    assert longest == {"none": 0, "every": 3}.get(name, longest)
    if name in ("sequence", "document"):
        assert longest > 2
    manifest = verified(folder / name)
    assert manifest.distinct_pauses == 2
    assert max(manifest.pause_runs, default=0) == longest


@pytest.mark.parametrize("name", ["sequence", "every"])
def test_a_wrong_number_is_found(folder, name, tmp_path, capsys):
    copy = tmp_path / name
    copy.mkdir()
    for file in (folder / name).iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    path = sorted(copy.glob("*.bin"))[0]
    tokens = np.fromfile(path, np.uint16)
    place = int(np.flatnonzero(tokens == PAUSES[1])[0])
    tokens[place] = PAUSES[0]
    tokens.tofile(path)
    with pytest.raises(UserError, match="1 fault"):
        verify_dataset(VerifyDatasetConfig(data=copy, hashes=False, workers=1))
    assert (
        f"token {place % 64} (byte {2 * place}): id 2, expected 3 for the place of this pause in"
        in capsys.readouterr().out
    )

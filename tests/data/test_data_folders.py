"""Folders that cannot be trained on are refused before anything is opened."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.blend import BlendComponent
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.data.data_folders import DataFolder, check_training_folders, check_validation_folders
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.make_tokenizer import train_tokenizer
from tests.chain import SEQ_LENGTH, write_dataset
from tests.data.datasets import Datasets

POSITIONS = 256


def parts(*folders: Path) -> list[BlendComponent]:
    return [BlendComponent(folder=folder, weight=None) for folder in folders]


def training(
    datasets: Datasets, *names: str, seq_length: int = 0, positions: int = POSITIONS
) -> tuple[DataFolder, ...]:
    return check_training_folders(
        parts(*(datasets.folder / name for name in names)),
        datasets.tokenizer,
        seq_length=seq_length,
        max_position_embeddings=positions,
    )


def test_documents_are_cut_to_the_length_of_the_sequences_in_the_blend(datasets: Datasets) -> None:
    assert [folder.seq_length for folder in training(datasets, "document", "none")] == [SEQ_LENGTH, SEQ_LENGTH]


def test_documents_only_are_cut_to_the_models_positions_or_the_given_length(datasets: Datasets) -> None:
    assert training(datasets, "document")[0].seq_length == POSITIONS
    assert training(datasets, "document", seq_length=100)[0].seq_length == 100
    assert training(datasets, "none", seq_length=SEQ_LENGTH)[0].seq_length == SEQ_LENGTH


def test_documents_without_the_beginning_of_text_of_the_tokenizer_are_warned_about(
    datasets: Datasets, capsys: pytest.CaptureFixture[str]
) -> None:
    training(datasets, "document")
    assert "before texts" not in capsys.readouterr().err
    tokenizer = copy(datasets.tokenizer)
    tokenizer.bos_ids = (3,)
    folder = parts(datasets.folder / "document")
    check_training_folders(folder, tokenizer, seq_length=0, max_position_embeddings=POSITIONS)
    assert "its documents begin with the ids [], but" in (warning := capsys.readouterr().err)
    assert "puts [3] before texts; preprocess the data again" in warning


def test_validation_sequences_may_have_their_own_length(datasets: Datasets) -> None:
    found = check_validation_folders(
        parts(datasets.folder / "document", datasets.folder / "none"),
        datasets.tokenizer,
        seq_length=128,
        max_position_embeddings=POSITIONS,
    )
    assert [folder.seq_length for folder in found] == [128, SEQ_LENGTH]


def test_folders_of_the_same_name_are_called_by_their_path(datasets: Datasets, tmp_path: Path) -> None:
    (tmp_path / "none").symlink_to(datasets.folder / "none")
    found = check_validation_folders(
        parts(datasets.folder / "none", tmp_path / "none", datasets.folder / "every"),
        datasets.tokenizer,
        seq_length=SEQ_LENGTH,
        max_position_embeddings=POSITIONS,
    )
    assert [folder.name for folder in found] == [str(datasets.folder / "none"), str(tmp_path / "none"), "every"]


@pytest.mark.parametrize(
    ("names", "lengths", "message"),
    [
        (["none"], {"positions": 32}, "none: sequences of 64 tokens are longer than --max-position-embeddings 32"),
        (["document"], {"seq_length": 300}, "--seq-length 300.*longer than --max-position-embeddings 256"),
        (["none"], {"seq_length": 32}, "none: has sequences of 64 tokens, but the samples of --data have 32"),
        (["document"], {"seq_length": 200_000, "positions": 200_000}, "no sequence of 200000 tokens"),
        (["tokenizer"], {}, "no dataset"),
        (["nowhere"], {}, "nowhere"),
    ],
)
def test_unsuitable_lengths_and_folders_are_refused(
    datasets: Datasets, names: list[str], lengths: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        training(datasets, *names, **lengths)


def test_mixed_lengths_are_refused(datasets: Datasets, tmp_path: Path) -> None:
    for name in ("corpus", "tokenizer"):
        (tmp_path / name).symlink_to(datasets.folder / name)
    longer = write_dataset(tmp_path, "longer", seq_length=128)
    with pytest.raises(UserError, match="longer: has sequences of 128 tokens, but the samples of --data have 64"):
        check_training_folders(
            parts(datasets.folder / "none", longer), datasets.tokenizer, seq_length=0, max_position_embeddings=POSITIONS
        )


def copied(datasets: Datasets, folder: Path, **changes: Any) -> Path:
    """A copy of the dataset ``none`` with changes to its manifest, as an older version may have written it."""
    for path in (datasets.folder / "none").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((folder / "dataset.json").read_text())
    del manifest["sha256"]
    (folder / "dataset.json").write_text(json.dumps(manifest | changes))
    return folder


def test_another_tokenizer_or_another_pause_id_is_refused(datasets: Datasets, tmp_path: Path) -> None:
    config = TokenizerConfig(
        input=(str(datasets.folder / "corpus" / "*train*"),), output=tmp_path / "other", vocab_size=400
    )
    train_tokenizer(config)
    with pytest.raises(UserError, match="none: was written with another tokenizer"):
        check_training_folders(
            parts(datasets.folder / "none"),
            PauseTokenizer.load(config.output),
            seq_length=0,
            max_position_embeddings=POSITIONS,
        )
    changed = copied(datasets, tmp_path, pause_id=7)
    with pytest.raises(UserError, match=r"with pause_id 7, but --tokenizer .* has 2"):
        check_training_folders(parts(changed), datasets.tokenizer, seq_length=0, max_position_embeddings=POSITIONS)


def test_truncated_shard_is_refused(datasets: Datasets, tmp_path: Path) -> None:
    folder = copied(datasets, tmp_path)
    path = sorted(folder.glob("*.bin"))[0]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=path.name):
        check_training_folders(parts(folder), datasets.tokenizer, seq_length=0, max_position_embeddings=POSITIONS)

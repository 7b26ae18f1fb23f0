import json
import os
from functools import partial

import numpy as np
import pytest

from pause_megatron.cli.commands import SUBCOMMANDS
from pause_megatron.cli.main import run_command
from pause_megatron.config.dataset import VerifyDatasetConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.run import preprocess
from pause_megatron.preprocess.verification.verify_dataset import run_checks, verify_dataset
from tests.preprocess.finished_datasets import EOD, KINDS, PAUSE, Damaged, real_place, write_by_hand


@pytest.mark.parametrize("merged", ["", "-merged"])
@pytest.mark.parametrize("name", KINDS)
def test_a_written_dataset_has_no_faults_and_equals_its_twin(datasets, capsys, name, merged):
    folder, standard = datasets / (name + merged), datasets / f"none{'' if merged else '-merged'}"
    verify_dataset(VerifyDatasetConfig(data=folder, standard=standard, workers=1))
    table = {line[:18].strip(): line[18:] for line in capsys.readouterr().out.splitlines()}
    assert table["dataset"].startswith(f"{folder}: 3 shards")
    assert table["verified"].startswith("no faults in ")
    assert table["verified"].endswith(" GB; hashes equal")
    assert table["standard"].startswith(f"{tokens_in_both(datasets, name):,} real tokens equal to those of {standard}")


def tokens_in_both(datasets, name):
    """How many real tokens are stored both in the dataset and in its twin; each lacks some of each shard's end."""
    manifest, none = (load_dataset_manifest(datasets / folder) for folder in (name, "none"))
    total = 0
    for shard, twin in zip(manifest.shards, none.shards, strict=True):
        if manifest.trimmed == "carry":
            total += min(shard.real_tokens, twin.tokens)
        else:
            tokens = np.fromfile(datasets / name / f"{shard.name}.bin", np.uint16).reshape(-1, manifest.seq_length)
            starts = np.arange(len(tokens)) * manifest.seq_length
            total += int(np.clip(twin.tokens - starts, 0, (tokens != PAUSE).sum(axis=1)).sum())
    return total


@pytest.mark.parametrize("name", ["none", "none-merged"])
def test_a_dataset_without_pauses_has_no_faults(datasets, faults, name):
    assert faults(datasets / name) == []


def test_a_dataset_of_real_text_has_no_faults(tmp_path, c4_shards, config_for, faults):
    also = (f"sequence:{tmp_path / 'sequence'}", f"document:{tmp_path / 'document'}")
    preprocess(config_for(tmp_path / "none", input=c4_shards, pauses="none", also=also))
    for name in ("sequence", "document"):
        assert faults(tmp_path / name, standard=tmp_path / "none") == []


def test_skipped_records_are_not_a_fault(tmp_path, config_for, faults):
    text = json.dumps({"text": "A few words that stand in one document. " * 20})
    (tmp_path / "a.jsonl").write_text("\n".join([text] * 30 + ["{"] + [text] * 30 + ["[]", text, ""]))
    changes = {"input": (str(tmp_path / "a.jsonl"),), "seq_length": 64, "also": (f"none:{tmp_path / 'none'}",)}
    preprocess(config_for(tmp_path / "data", on_error="skip", **changes))
    assert load_dataset_manifest(tmp_path / "data").shards[0].skipped_records == 2
    assert faults(tmp_path / "data", standard=tmp_path / "none") == []


def test_empty_shards_and_wide_tokens_are_not_a_fault(tmp_path, faults):
    assert faults(write_by_hand(tmp_path / "data", [[5, 9], [], [2, 3]], vocab_size=70_000)) == []


def test_processes_find_the_same(datasets, damaged, faults):
    copy = damaged("document-merged")
    copy.put(real_place(copy, 5000), 1023)
    copy.patch_index(copy.offsets_at(7), "q", 5)
    alone = faults(copy.folder, standard=datasets / "none")
    assert len(alone) == 4
    assert faults(copy.folder, standard=datasets / "none", workers=2) == alone


def test_a_killed_worker_is_an_error():
    with pytest.raises(UserError, match=r"a worker process was killed .*, so not everything was checked"):
        list(run_checks([partial(os._exit, 1)] * 2, workers=2))


@pytest.mark.parametrize("name", KINDS)
def test_block_size_makes_no_difference(datasets, damaged, faults, monkeypatch, name):
    copy = damaged(name)
    tokens = copy.tokens()
    for place in range(40, len(tokens) - 1, 131):
        tokens[place : place + 2] = PAUSE if tokens[place] != PAUSE else [77, EOD]
    copy.bin.write_bytes(tokens.tobytes())
    whole = faults(copy.folder, standard=datasets / "none")
    assert len(whole) > 3
    monkeypatch.setattr("pause_megatron.preprocess.token_blocks.TOKENS_AT_ONCE", 31)
    monkeypatch.setattr("pause_megatron.preprocess.token_blocks.SEQUENCES_AT_ONCE", 3)
    monkeypatch.setattr("pause_megatron.preprocess.shard_spans.SEQUENCES_AT_ONCE", 3)
    monkeypatch.setattr("pause_megatron.preprocess.verification.index_checks.SEQUENCES_AT_ONCE", 5)
    assert sorted(faults(copy.folder, standard=datasets / "none")) == sorted(whole)


def test_every_flipped_bit_is_found(datasets, tmp_path, faults):
    copy = Damaged(datasets / "document", tmp_path / "copy")
    random = np.random.default_rng(0)
    for path in (copy.bin, copy.idx):
        content = path.read_bytes()
        for byte in random.integers(0, len(content), 40):
            flipped = bytearray(content)
            flipped[byte] ^= 1 << int(random.integers(8))
            path.write_bytes(flipped)
            assert any(path.name in line for line in faults(copy.folder)), (path, byte)
        path.write_bytes(content)
    assert faults(copy.folder) == []


def test_faults_of_all_shards_are_reported(damaged, faults):
    copy = damaged("sequence")
    names = [shard.name for shard in copy.manifest.shards]
    (copy.folder / f"{names[0]}.bin").unlink()
    (copy.folder / f"{names[1]}.idx").write_bytes(b"MMIDIDX")
    copy.edit(f"{names[2]}.json", lambda record: record["shard"].update(documents=1))
    found = faults(copy.folder)
    assert len(found) == 3
    assert found[0] == f"{names[0]}.bin: missing, though the manifest lists it"
    assert found[1].startswith(f"{names[1]}.idx: size in bytes is 7, expected ")
    assert found[2].startswith(f"{names[2]}.json: documents is 1, but ")


def test_hashes_can_be_left_out(damaged, faults):
    copy = damaged("sequence")
    place = real_place(copy, 0)
    copy.put(place, 300 if copy.tokens()[place] != 300 else 301)
    size = copy.manifest.shards[0].bin_bytes
    said = f"{copy.name}.bin: the SHA-256 of bytes 0 to {size} is not the manifest's; the content has changed"
    assert faults(copy.folder) == [said]
    assert faults(copy.folder, hashes=False) == []


def test_command_line(datasets, damaged, capsys):
    command = SUBCOMMANDS["verify-dataset"]
    arguments = ["--data", str(datasets / "sequence"), "--standard", str(datasets / "none"), "--no-hashes"]
    assert run_command(command, "verify-dataset", [*arguments, "--workers", "1"]) == 0
    copy = damaged("sequence")
    copy.put(real_place(copy, 0), 1024)
    assert run_command(command, "verify-dataset", ["--data", str(copy.folder), "--workers", "1"]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {copy.folder}: 2 faults; repair or rewrite the dataset before you train on it\n"
    )


def test_a_folder_without_a_dataset_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"not a complete dataset \(no dataset.json\); finish it with"):
        verify_dataset(VerifyDatasetConfig(data=tmp_path))
    (tmp_path / "dataset.json").write_text('{"format": "pause_megatron/dataset/2", "strategy": "sequ')
    with pytest.raises(UserError, match=r"dataset.json: not complete JSON \(Input data was truncated\)"):
        verify_dataset(VerifyDatasetConfig(data=tmp_path))

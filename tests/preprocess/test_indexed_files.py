import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

from pause_megatron.preprocess.indexed_files import DTYPE_CODES, index_bytes, token_dtype


@pytest.mark.parametrize("vocab_size", [1024, 65_499, 65_500, 100_000])
def test_dtype_is_the_one_megatron_takes(vocab_size):
    assert token_dtype(vocab_size) == DType.optimal_dtype(vocab_size)
    assert DTYPE_CODES[token_dtype(vocab_size)] == DType.code_from_dtype(DType.optimal_dtype(vocab_size))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
@pytest.mark.parametrize("lengths", [[], [8], [3, 0, 5, 1], [2048] * 50])
def test_index_is_byte_for_byte_megatrons(tmp_path, dtype, lengths):
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype)
    for length in lengths:
        builder.add_document(np.arange(length), [length])
    builder.finalize(str(tmp_path / "theirs.idx"))
    assert index_bytes(np.array(lengths, dtype=np.int32), np.dtype(dtype)) == (tmp_path / "theirs.idx").read_bytes()


def test_dataset_is_byte_for_byte_megatrons(tmp_path, written):
    manifest, shards = written(tmp_path / "ours")
    for shard, sequences in zip(manifest.shards, shards, strict=True):
        builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
        for sequence in sequences:
            builder.add_item(torch.from_numpy(sequence.astype(np.int32)))
            builder.end_document()
        builder.finalize(str(tmp_path / "theirs.idx"))
        for suffix in (".bin", ".idx"):
            ours = (tmp_path / "ours" / f"{shard.name}{suffix}").read_bytes()
            assert ours == (tmp_path / f"theirs{suffix}").read_bytes()


def test_plain_megatron_opens_a_dataset(tmp_path, written):
    manifest, shards = written(tmp_path / "data")
    for shard, sequences in zip(manifest.shards, shards, strict=True):
        dataset = IndexedDataset(str(tmp_path / "data" / shard.name))
        assert len(dataset) == shard.sequences == len(sequences)
        assert (dataset.sequence_lengths == manifest.seq_length).all()
        for i in (0, len(dataset) - 1):
            np.testing.assert_array_equal(dataset[i], sequences[i])

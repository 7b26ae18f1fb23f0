import numpy as np
import pytest

from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.inspection.measurements import DOCUMENT_BINS, LONGEST_GAP, measure
from pause_megatron.preprocess.shard_spans import spans_of
from tests.preprocess.conftest import rows_of
from tests.preprocess.finished_datasets import EOD, KINDS, PAUSE


@pytest.fixture(params=[*KINDS, "none"])
def opened(datasets, request):
    folder = datasets / request.param
    manifest = load_dataset_manifest(folder)
    return folder, manifest, spans_of(folder, manifest)


@pytest.mark.parametrize("at_once", [1 << 18, 29])
def test_everything_is_counted_right(opened, monkeypatch, at_once):
    folder, manifest, parts = opened
    monkeypatch.setattr("pause_megatron.preprocess.token_blocks.TOKENS_AT_ONCE", at_once)
    monkeypatch.setattr("pause_megatron.preprocess.shard_spans.SEQUENCES_AT_ONCE", 11)
    found = measure(parts, manifest, 0)
    places = np.zeros((2, manifest.seq_length or DOCUMENT_BINS), int)
    gaps, lengths = np.zeros(LONGEST_GAP + 1, int), []
    for shard in manifest.shards:
        rows = rows_of(folder, shard, manifest.seq_length)
        for row in rows:
            place = np.arange(len(row)) if manifest.seq_length else np.arange(len(row)) * DOCUMENT_BINS // len(row)
            np.add.at(places[0], place, 1)
            np.add.at(places[1], place[row == PAUSE], 1)
            np.add.at(gaps, np.minimum(np.diff(np.flatnonzero(row == PAUSE)) - 1, LONGEST_GAP), 1)
        streams = rows if manifest.trimmed == "drop" else [np.concatenate(rows)]
        for stream in streams:
            ends = np.flatnonzero(stream[stream != PAUSE] == EOD)
            whole = np.diff(ends) if manifest.trimmed == "drop" else np.diff(ends, prepend=-1)
            lengths += (whole - 1).tolist()
    assert found.tokens == manifest.tokens == places[0].sum()
    np.testing.assert_array_equal(found.places, places[0])
    np.testing.assert_array_equal(found.pauses, places[1])
    np.testing.assert_array_equal(found.gaps, gaps)
    np.testing.assert_array_equal(found.documents, np.bincount(lengths))
    if manifest.trimmed == "carry":
        assert found.document_quantile(0.5) == int(np.quantile(lengths, 0.5, method="inverted_cdf"))


def test_a_share_of_every_shard_is_measured(opened):
    _, manifest, parts = opened
    found = measure(parts, manifest, manifest.tokens // 4)
    slack = len(parts) * max(manifest.seq_length, 15_000 if not manifest.seq_length else 0)
    assert manifest.tokens // 4 <= found.tokens <= manifest.tokens // 4 + slack
    assert found.tokens < manifest.tokens

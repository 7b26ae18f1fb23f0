"""Checks of manifests: settings, the numbers of each shard's entry, and the entries of the dataset without pauses."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import (
    DATASET_FILE,
    LISTED_SKIPS,
    DatasetManifest,
    ShardRecord,
    load_dataset_manifest,
)
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.indexed_files import index_size, token_dtype
from pause_megatron.preprocess.shard_spans import ShardSpan, spans_of
from pause_megatron.preprocess.verification.faults import Faults
from pause_megatron.records.files import read_record

_SHARED_SETTINGS = ("tokenizer_sha256", "vocab_size", "pause_id", "distinct_pauses", "eod_id", "bos_ids", "text_key")


def check_settings(folder: Path, manifest: DatasetManifest) -> Faults:
    """Check the settings and the list of shards; a fault here makes further checks impossible."""
    faults, path = Faults(), folder / DATASET_FILE
    for name, found in (("pause_id", manifest.pause_ids[-1]), ("eod_id", manifest.eod_id)):
        if not 0 <= found < manifest.vocab_size:
            faults.add(name, f"{path}: {name} {found} is not below vocab_size {manifest.vocab_size}")
    for token_id in manifest.bos_ids or ():
        if not 0 <= token_id < manifest.vocab_size or token_id in (*manifest.pause_ids, manifest.eod_id):
            faults.add("bos_ids", f"{path}: bos_ids has {token_id}, no beginning-of-text token of this vocabulary")
    if manifest.eod_id in manifest.pause_ids:
        faults.add("ids", f"{path}: pause_id and eod_id are both {manifest.eod_id}")
    if (manifest.seq_length > 0) != (manifest.strategy != "document"):
        faults.add("seq_length", f"{path}: seq_length {manifest.seq_length} with strategy {manifest.strategy}")
    elif manifest.strategy == "every" and manifest.seq_length % (manifest.interval + manifest.pauses_per_token):
        tokens = "a token with its pauses" if manifest.interval == 1 else f"{manifest.interval} tokens and their pauses"
        faults.add(
            "group",
            f"{path}: seq_length {manifest.seq_length} is not a multiple of "
            f"{manifest.interval + manifest.pauses_per_token}, {tokens}",
        )
    if manifest.merged:
        inside = sum(file.shards for file in manifest.merged)
        faults.expect("merged", f"{path}: shards in the merged files are", inside, len(manifest.shards))
        if any(file.shards < 1 for file in manifest.merged):
            faults.add("merged", f"{path}: a merged file has no shard")
    else:
        _check_shards(path, manifest, faults)
    return faults


def _check_shards(path: Path, manifest: DatasetManifest, faults: Faults) -> None:
    indices = [shard.index for shard in manifest.shards]
    faults.expect("indices", f"{path}: indices of the shards are", indices, list(range(len(indices))))
    names = Counter(shard.name for shard in manifest.shards)
    for name, count in names.items():
        if count > 1:
            faults.add("names", f"{path}: lists shard {name} {count} times")
    for found in sorted(path.parent.glob("*.bin")):
        if found.stem not in names:
            faults.add("unlisted", f"{found}: not listed in {path}")


def check_entry(span: ShardSpan, settings: DatasetSettings, merged: bool, faults: Faults) -> bool:
    """Check the numbers of a shard's entry; returns whether its sizes are consistent, so that tokens can be read."""
    shard, subject = span.shard, f"{span.folder / DATASET_FILE}: shard {span.shard.name}:"
    itemsize = token_dtype(settings.vocab_size).itemsize
    consistent = min(shard.sequences, shard.tokens) >= 0
    if settings.seq_length:
        consistent &= faults.expect("tokens", f"{subject} tokens", shard.tokens, shard.sequences * settings.seq_length)
    else:
        faults.expect("documents", f"{subject} documents", shard.documents, shard.sequences)
    consistent &= faults.expect("bin_bytes", f"{subject} bin_bytes", shard.bin_bytes, shard.tokens * itemsize)
    faults.expect("idx_bytes", f"{subject} idx_bytes", shard.idx_bytes, index_size(shard.sequences))
    faults.expect("fraction", f"{subject} pause_fraction", shard.pause_fraction, shard.pauses / max(1, shard.tokens))
    in_runs = sum(length * count for length, count in shard.pause_runs.items())
    faults.expect("runs", f"{subject} pauses in pause_runs", in_runs, shard.pauses)
    listed = min(shard.skipped_records, LISTED_SKIPS)
    faults.expect("skipped", f"{subject} skipped records listed", len(shard.skipped), listed)
    if settings.trimmed == "carry" or settings.strategy == "document":
        faults.expect("trimmed", f"{subject} trimmed_tokens", shard.trimmed_tokens, 0)
    if not 0 <= shard.tail_tokens <= max(0, settings.seq_length - 1):
        faults.add("tail", f"{subject} tail_tokens {shard.tail_tokens}, expected less than a sequence")
    if not merged:
        _check_record(span, settings, faults)
    return consistent


def _check_record(span: ShardSpan, settings: DatasetSettings, faults: Faults) -> None:
    path = span.folder / f"{span.shard.name}.json"
    try:
        record = read_record(path, ShardRecord)
    except UserError as error:
        faults.add("record", str(error))
        return
    for kind, ours, theirs in (("settings", settings, record.settings), ("entry", span.shard, record.shard)):
        for name, value in vars(ours).items():
            if (other := getattr(theirs, name)) != value:
                faults.add(f"record {kind}", f"{path}: {name} is {other}, but {value} in {DATASET_FILE}")


def find_twins(folder: Path, manifest: DatasetManifest, spans: Sequence[ShardSpan]) -> list[ShardSpan]:
    """Return for each of ``spans`` the same shard of ``folder``, a dataset without pauses from the same input."""
    standard = load_dataset_manifest(folder)
    if standard.strategy != "none":
        raise UserError(
            f"--standard {folder}: written with --pauses {standard.strategy}; give a dataset of --pauses none"
        )
    for name in _SHARED_SETTINGS:
        if getattr(standard, name) != getattr(manifest, name):
            raise UserError(
                f"--standard {folder}: its {name} is {getattr(standard, name)}, that of --data is "
                f"{getattr(manifest, name)}; give a dataset written from the same text with the same tokenizer"
            )
    by_shard = defaultdict(list)
    for span in spans_of(folder, standard):
        by_shard[span.shard.name, span.shard.index].append(span)
    twins = []
    for span in spans:
        found = by_shard[span.shard.name, span.shard.index]
        if not found:
            raise UserError(
                f"--standard {folder}: has no shard {span.shard.name} (number {span.shard.index}, from "
                f"{span.shard.input}); give a dataset written from the same input files in the same order"
            )
        twins.append(found.pop(0))
    return twins


def check_twin_counts(span: ShardSpan, twin: ShardSpan, faults: Faults) -> None:
    """Compare the entry of a shard with that of its twin: documents, and tokens of text, stored or not."""
    ours, theirs, compared = span.shard, twin.shard, f"compared with {twin.label()}, are"
    for name in ("documents", "empty_documents", "skipped_records"):
        subject = f"{span.label()}: {name}, {compared}"
        faults.expect(f"twin {name}", subject, getattr(ours, name), getattr(theirs, name))
    text, twin_text = ours.real_tokens + ours.dropped_tokens, theirs.real_tokens + theirs.dropped_tokens
    faults.expect("twin tokens", f"{span.label()}: tokens of text, {compared}", text, twin_text)

"""``pause-megatron inspect-dataset``: prints statistics and stored sequences, and writes a picture of histograms."""

import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pause_megatron import log
from pause_megatron.config.dataset import InspectDatasetConfig
from pause_megatron.errors import UserError
from pause_megatron.optional_packages import packages_needed_by
from pause_megatron.pauses.pause_ids import is_pause
from pause_megatron.preprocess.dataset_manifest import DatasetManifest, load_dataset_manifest, stored_files
from pause_megatron.preprocess.inspection.measurements import Measurements, measure
from pause_megatron.preprocess.inspection.sequence_display import (
    LEGEND,
    StoredSample,
    TokenTexts,
    choose_indices,
    read_sample,
    sample_lines,
)
from pause_megatron.preprocess.shard_spans import spans_of
from pause_megatron.tokenizer import PauseTokenizer

_PLAIN_WIDTH = 120
_RUNS_SHOWN = 5


def inspect_dataset(config: InspectDatasetConfig) -> None:
    """Print the statistics and some sequences of ``config.data``, and write the histogram if requested.

    Raises :class:`UserError` for an incomplete dataset, another tokenizer than that of the dataset, an index beyond
    the last sequence, and a picture that cannot be drawn or written.
    """
    manifest = load_dataset_manifest(config.data)
    tokenizer = PauseTokenizer.load(config.tokenizer)
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise UserError(
            f"--tokenizer {tokenizer.path}: {config.data} was written with another tokenizer (sha256 "
            f"{manifest.tokenizer_sha256[:12]}, not {tokenizer.sha256[:12]}); give that one"
        )
    spans = spans_of(config.data, manifest)
    indices = choose_indices(config.indices, config.samples, manifest.sequences)
    found = measure(spans, manifest, config.scan_tokens)
    console = _open_console()
    for name, value in [*manifest_rows(config.data, manifest), *_measured(manifest, found)]:
        console.print(Text.assemble((f"{name:<18}", "bold"), value), soft_wrap=True)
    texts = TokenTexts(tokenizer)
    for number, index in enumerate(indices):
        sample = read_sample(spans, manifest, index)
        console.print()
        if not number:
            console.print(Text(LEGEND, style="dim"))
            console.print()
        console.print(Text(_heading(sample, manifest), style="bold"), soft_wrap=True)
        for line in sample_lines(sample, texts, config.tokens, console.width):
            console.print(line, soft_wrap=True)
    if config.histogram is not None:
        with packages_needed_by("--histogram"):
            from pause_megatron.preprocess.inspection.picture import write_picture
        write_picture(config.histogram, f"{config.data.resolve().name}: {_settings(manifest)}", manifest, found)
        log.info(f"{config.histogram} written")


def _open_console() -> Console:
    """Open a console: coloured on a terminal, plain elsewhere; escapes characters that the output cannot encode."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


def manifest_rows(folder: Path, manifest: DatasetManifest) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table that come from the manifest: name and value."""

    def total(name: str) -> str:
        return f"{sum(getattr(shard, name) for shard in manifest.shards):,}"

    files = len(stored_files(manifest))
    yield "dataset", f"{folder}: {len(manifest.shards)} shards in {files} .bin and .idx files"
    yield "pauses", _settings(manifest)
    start = f", its beginning {' '.join(map(str, manifest.bos_ids))}" if manifest.bos_ids else ""
    first, last = manifest.pause_ids[0], manifest.pause_ids[-1]
    pauses = f"<pause> is {first}" if first == last else f"<pause1> to <pause{last - first + 1}> are {first} to {last}"
    ids = f"{pauses}, the end of a document {manifest.eod_id}{start}"
    yield "tokenizer", f"{manifest.vocab_size:,} tokens, {ids}; encoded by {manifest.encoder}"
    left_out = f"{total('empty_documents')} empty ones and {total('skipped_records')} unreadable records left out"
    yield "documents", f"{total('documents')}; {left_out}"
    yield "sequences", f"{manifest.sequences:,}" + (f" of {manifest.seq_length} tokens" if manifest.seq_length else "")
    fraction, expected = manifest.pauses / max(1, manifest.tokens), manifest.expected_pause_fraction
    yield "tokens", f"{manifest.tokens:,}; {manifest.pauses:,} pauses ({fraction:.2%}, expected {expected:.2%})"
    tail = f"{total('tail_tokens')} left over at the ends of shards"
    yield "not stored", f"{total('trimmed_tokens')} real tokens trimmed off, {tail}"
    if manifest.pauses:
        yield "pauses in a row", _runs(manifest)


def _settings(manifest: DatasetManifest) -> str:
    if manifest.strategy == "none":
        return "no pauses"
    if manifest.strategy == "every":
        tokens = "token" if manifest.interval == 1 else f"{manifest.interval} tokens"
        return f"every, {manifest.pauses_per_token} after each {tokens}"
    rate = f"rates drawn around {manifest.pause_rate}" if manifest.rates else f"rate {manifest.pause_rate}"
    text = f"{manifest.strategy}, {rate}, gaps {manifest.gaps}, seed {manifest.seed}"
    return text + (f", trimmed text {manifest.trimmed}" if manifest.strategy == "sequence" else "")


def _runs(manifest: DatasetManifest) -> str:
    runs = manifest.pause_runs
    shown = [f"{length}: {runs[length]:,} ({runs[length] / runs.total():.2%})" for length in sorted(runs)[:_RUNS_SHOWN]]
    longer = sum(runs[length] for length in sorted(runs)[_RUNS_SHOWN:])
    return ", ".join(shown) + (f", longer: {longer:,}; the longest has {max(runs)}" if longer else "")


def _measured(manifest: DatasetManifest, found: Measurements) -> Iterator[tuple[str, str]]:
    if documents := int(found.documents.sum()):
        low, median, high = (found.document_quantile(share) for share in (0.05, 0.5, 0.95))
        read = "all" if found.tokens == manifest.tokens else f"{found.tokens / manifest.tokens:.2%} of the"
        inside = "; only those inside one sequence" if manifest.trimmed == "drop" else ""
        yield (
            "document lengths",
            f"median {median:,} real tokens, 90 % from {low:,} to {high:,}, longest {len(found.documents) - 1:,} "
            f"(of {documents:,} complete ones in {read} tokens{inside})",
        )


def _heading(sample: StoredSample, manifest: DatasetManifest) -> str:
    tokens, pauses = len(sample.tokens), int(is_pause(sample.tokens, manifest.pause_ids).sum())
    return (
        f"sequence {sample.index} ({sample.place} of shard {sample.span.shard.name}): {tokens} tokens, {pauses} pauses "
        f"({pauses / tokens:.1%}), loss at {int(sample.has_loss.sum())} positions"
    )

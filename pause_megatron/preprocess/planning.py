"""What a run has to do: its inputs, the settings of every dataset, and the shards that are missing.

A shard whose manifest is there is done. What is there must have been made from the same input with the same settings;
otherwise the run is refused, naming the difference, before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from pause_megatron import log
from pause_megatron.atomic import sweep
from pause_megatron.config.preprocess import InsertionConfig, PreprocessConfig
from pause_megatron.corpus.blocks import ReadOptions
from pause_megatron.corpus.sources import Source, find_sources
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import (
    DATASET_FILE,
    DatasetSettings,
    ShardManifest,
    ShardRecord,
    check_stored_file,
    differing_setting,
    read_dataset_manifest,
    read_shard_record,
    shard_file,
)
from pause_megatron.preprocess.progress_log import PROGRESS_FOLDER
from pause_megatron.preprocess.shard import ShardJob, ShardOutput
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.encoders import choose_encoder

_DOCUMENTS_COMPARED = 1000
"""First documents of a run on which a fast encoder has to equal the reference."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run, as far as it can be known before anything is encoded."""

    sources: tuple[Source, ...]
    """All inputs; their positions are the shards' indices."""
    outputs: tuple[ShardOutput, ...]
    """The datasets to write."""
    jobs: tuple[ShardJob, ...]
    """What is missing of the shards this run is to work on, each for the datasets that miss it."""


def plan_run(config: PreprocessConfig) -> Plan:
    """Find inputs and finished shards, settle the settings, and sweep what killed runs left half-written.

    Raises :class:`UserError` for input or a tokenizer that cannot be used, for an output folder that holds shards made
    from other input or with other settings, and for shards that another run is writing at the moment.
    """
    sources = find_sources(config.input)
    folders = [folder for folder, _ in config.outputs()]
    _refuse_input_folders(folders, sources)
    tokenizer = PauseTokenizer.load(config.tokenizer)
    if tokenizer.caveat:
        log.warn(tokenizer.caveat)
    options = ReadOptions(
        text_key=config.text_key,
        on_error=config.on_error,
        max_document_bytes=config.max_document_megabytes * 1_000_000,
    )
    records = [_read_records(folder) for folder in folders]
    indices = config.shard_indices(len(sources))
    anything_to_do = any(sources[i].name not in there for i in indices for there in records)
    encoder = _choose_encoder(config, tokenizer, sources, options, records, anything_to_do)
    outputs = tuple(
        ShardOutput(folder=folder, settings=dataset_settings(insertion, config.text_key, tokenizer, encoder))
        for folder, insertion in config.outputs()
    )
    for output, there in zip(outputs, records, strict=True):
        check_records(output, there, sources)
    jobs = []
    for index in indices:
        missing = tuple(
            output for output, there in zip(outputs, records, strict=True) if sources[index].name not in there
        )
        if missing:
            job = ShardJob(
                source=sources[index],
                index=index,
                options=options,
                tokenizer=tokenizer.path,
                outputs=missing,
                progress=folders[0] / PROGRESS_FOLDER,
            )
            jobs.append(job)
    for folder in folders:
        _sweep(folder, {job.name for job in jobs})
    return Plan(sources=sources, outputs=outputs, jobs=tuple(jobs))


def dataset_settings(
    insertion: InsertionConfig, text_key: str, tokenizer: PauseTokenizer, encoder: str
) -> DatasetSettings:
    """What decides a dataset's bytes; what its strategy does not use is neutral, so that it may change."""
    strategy = insertion.pauses
    random = strategy in ("sequence", "document")
    return DatasetSettings(
        strategy=strategy,
        pause_rate=insertion.pause_rate if random else 0.0,
        pauses_per_token=insertion.pauses_per_token if strategy == "every" else 0,
        gaps=insertion.gaps if random else "repeat",
        trimmed=insertion.trimmed if strategy == "sequence" else "carry",
        seq_length=0 if strategy == "document" else insertion.seq_length,
        seed=insertion.seed if random else 0,
        text_key=text_key,
        tokenizer_sha256=tokenizer.sha256,
        encoder=encoder,
        vocab_size=tokenizer.vocab_size,
        pause_id=tokenizer.pause_id,
        eod_id=tokenizer.eod_id,
    )


def finished_shards(output: ShardOutput, sources: Sequence[Source]) -> dict[str, ShardManifest]:
    """The shards of ``output`` that are done, by name; raises :class:`UserError` as :func:`check_records`."""
    records = _read_records(output.folder)
    check_records(output, records, sources)
    return {name: record.shard for name, record in records.items()}


def check_records(output: ShardOutput, records: dict[str, ShardRecord], sources: Sequence[Source]) -> None:
    """Raise :class:`UserError` unless all ``records`` were made from ``sources`` with the settings of ``output``."""
    position = {source.name: index for index, source in enumerate(sources)}
    for name, record in records.items():
        path, shard = output.folder / f"{name}.json", record.shard
        if name not in position:
            raise UserError(f"{path}: {shard.input} is not among --input now; give another --output")
        if difference := differing_setting(record.settings, output.settings):
            there, now = getattr(record.settings, difference), getattr(output.settings, difference)
            raise UserError(f"{path}: written with {difference} {there}, not {now} as now; give another --output")
        source = sources[position[name]]
        if (shard.index, shard.input_bytes) != (position[name], source.size_bytes):
            raise UserError(
                f"{path}: {source.location} or its place among --input has changed since the shard was written; "
                "give another --output"
            )
        check_stored_file(output.folder, shard_file(shard))


def _read_records(folder: Path) -> dict[str, ShardRecord]:
    """The shards' manifests in ``folder``, by name."""
    if (folder / DATASET_FILE).is_file() and read_dataset_manifest(folder).merged:
        raise UserError(f"{folder}: holds a merged dataset, which cannot be added to; give another --output")
    records = {}
    for path in sorted(folder.glob("*.json")):
        if path.name != DATASET_FILE:
            record = read_shard_record(path)
            records[record.shard.name] = record
    return records


def _choose_encoder(
    config: PreprocessConfig,
    tokenizer: PauseTokenizer,
    sources: Sequence[Source],
    options: ReadOptions,
    records: Sequence[dict[str, ShardRecord]],
    anything_to_do: bool,
) -> str:
    """The encoder's name: that of the finished shards where ``auto`` leaves the choice, else as found by comparison."""
    recorded = {record.settings.encoder for there in records for record in there.values()}
    if config.encoder == "auto" and (recorded == {tokenizer.encoder_name} or (recorded and not anything_to_do)):
        return recorded.pop()
    texts = chain.from_iterable(block.texts for block in sources[0].read(options))
    return choose_encoder(tokenizer, config.encoder, islice(texts, _DOCUMENTS_COMPARED))


def _refuse_input_folders(folders: Sequence[Path], sources: Sequence[Source]) -> None:
    inputs = {Path(source.location).parent.resolve() for source in sources}
    for folder in folders:
        if folder.resolve() in inputs:
            raise UserError(f"--output {folder}: the input files lie there; give the dataset a folder of its own")


def _sweep(folder: Path, names: set[str]) -> None:
    """Remove what killed runs left half-written in ``folder``; refuse to write what another run is writing."""
    for path in sweep(folder):
        name = path.name.removeprefix(".").rsplit(".", 3)[0]
        if name in names:
            raise UserError(
                f"{folder}: another run is writing shard {name} at the moment; wait for it, or give each run its own "
                "--shard-range"
            )

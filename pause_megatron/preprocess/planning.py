"""Planning of a preprocessing run: the inputs, the settings of every dataset, and the missing shards.

A shard is complete if its manifest exists. A file of such a shard can still be damaged, for example by a crash of a
machine whose disk had not written what it reported as written: the file then has its size and ends with zeros. A run
therefore compares the complete shards of its range with their hashes before it relies on them, which takes about one
hundredth of the time to write them. Of a remote folder it compares only the sizes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from pause_megatron import log
from pause_megatron.config.preprocess import InsertionConfig, PreprocessConfig
from pause_megatron.corpus.blocks import ReadOptions, Source
from pause_megatron.corpus.sources import find_sources
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import ShardManifest, ShardRecord
from pause_megatron.preprocess.dataset_settings import DatasetSettings, differing_setting
from pause_megatron.preprocess.output_folders import OutputFolder, output_folder
from pause_megatron.preprocess.shard import ShardJob, ShardOutput
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.encoders import choose_encoder

COMPARED_DOCUMENTS = 1000
"""First documents of a run, on which a fast encoder must equal the reference."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Work of one run."""

    sources: tuple[Source, ...]
    """All inputs; the index of an input is the index of its shard."""
    outputs: tuple[ShardOutput, ...]
    """Datasets to write."""
    jobs: tuple[ShardJob, ...]
    """Missing shards of this run, each with the datasets that miss it."""


def plan_run(config: PreprocessConfig) -> Plan:
    """Find inputs and complete shards, determine the settings, and remove the temporary files of killed runs.

    Raises :class:`UserError` as :func:`~pause_megatron.preprocess.run.preprocess`, before anything is written.
    """
    sources = find_sources(config.input)
    folders = [output_folder(path) for path, _ in config.outputs()]
    locations = [source.location for source in sources]
    if shared := next((folder for folder in folders if folder.contains_any(locations)), None):
        raise UserError(f"--output {shared.place}: contains the input files; give the dataset its own folder")
    tokenizer = PauseTokenizer.load(config.tokenizer)
    if tokenizer.caveat:
        log.warn(tokenizer.caveat)
    options = ReadOptions(
        text_key=config.text_key, on_error=config.on_error, max_document_bytes=config.max_document_megabytes * 1_000_000
    )
    records = [folder.read_records() for folder in folders]
    indices = config.shard_indices(len(sources))
    anything_to_do = any(sources[i].name not in found for i in indices for found in records)
    texts = chain.from_iterable(block.texts for block in sources[0].read(options))
    encoder = _choose_encoder(config, tokenizer, texts, records, anything_to_do)
    outputs = tuple(
        ShardOutput(folder=path, settings=dataset_settings(insertion, config.text_key, tokenizer, encoder))
        for path, insertion in config.outputs()
    )
    for folder, output, found in zip(folders, outputs, records, strict=True):
        check_records(folder, output.settings, found, sources)
        folder.check_content([found[name].shard for index in indices if (name := sources[index].name) in found])
    jobs = []
    for index in indices:
        name = sources[index].name
        if missing := tuple(output for output, found in zip(outputs, records, strict=True) if name not in found):
            job = ShardJob(
                source=sources[index],
                index=index,
                options=options,
                tokenizer=tokenizer.path,
                outputs=missing,
                progress=folders[0].progress,
            )
            jobs.append(job)
    for folder in folders:
        folder.sweep({job.source.name for job in jobs})
    return Plan(sources=sources, outputs=outputs, jobs=tuple(jobs))


def dataset_settings(
    insertion: InsertionConfig, text_key: str, tokenizer: PauseTokenizer, encoder: str
) -> DatasetSettings:
    """Return the settings of a dataset. Flags that its strategy ignores become neutral, so that they may change."""
    strategy = insertion.pauses
    random = strategy in ("sequence", "document")
    return DatasetSettings(
        strategy=strategy,
        pause_rate=insertion.pause_rate if random else 0.0,
        rates=insertion.rates if random and insertion.rates != "fixed" else None,
        pauses_per_token=insertion.pauses_per_token if strategy == "every" else 0,
        pause_interval=insertion.pause_interval if strategy == "every" and insertion.pause_interval > 1 else None,
        gaps=insertion.gaps if random else "repeat",
        trimmed=insertion.trimmed if strategy == "sequence" else "carry",
        seq_length=0 if strategy == "document" else insertion.seq_length,
        seed=insertion.seed if random else 0,
        text_key=text_key,
        tokenizer_sha256=tokenizer.sha256,
        encoder=encoder,
        vocab_size=tokenizer.vocab_size,
        pause_id=tokenizer.pause_id,
        distinct_pauses=tokenizer.distinct_pauses,
        eod_id=tokenizer.eod_id,
        bos_ids=tokenizer.document_start or None,
    )


def finished_shards(output: ShardOutput, sources: Sequence[Source]) -> dict[str, ShardManifest]:
    """Return the complete shards of ``output`` by name; raises :class:`UserError` as :func:`check_records`."""
    folder = output_folder(output.folder)
    records = folder.read_records()
    check_records(folder, output.settings, records, sources)
    return {name: record.shard for name, record in records.items()}


def check_records(
    folder: OutputFolder, settings: DatasetSettings, records: dict[str, ShardRecord], sources: Sequence[Source]
) -> None:
    """Raise :class:`UserError` unless all ``records`` of ``folder`` were made from ``sources`` with ``settings``, and
    their files are complete."""
    position = {source.name: index for index, source in enumerate(sources)}
    for name, record in records.items():
        path, shard = f"{folder.place}/{name}.json", record.shard
        if name not in position:
            raise UserError(f"{path}: was made from {shard.input}, which is not in --input; give another --output")
        if setting := differing_setting(record.settings, settings):
            raise UserError(
                f"{path}: was written with {setting}={getattr(record.settings, setting)}, but this run uses "
                f"{setting}={getattr(settings, setting)}; use the old value or another --output"
            )
        source = sources[position[name]]
        if (shard.index, shard.input_bytes) != (position[name], source.size_bytes):
            raise UserError(
                f"{path}: {source.location} or its place in --input has changed since the shard was written; "
                "give another --output"
            )
    folder.check_files([record.shard for record in records.values()])


def _choose_encoder(
    config: PreprocessConfig,
    tokenizer: PauseTokenizer,
    texts: Iterator[str],
    records: Sequence[dict[str, ShardRecord]],
    anything_to_do: bool,
) -> str:
    """Return the encoder of the complete shards, if ``auto`` leaves the choice; else compare encoders on the text."""
    recorded = {record.settings.encoder for found in records for record in found.values()}
    if config.encoder == "auto" and (recorded == {tokenizer.encoder_name} or (recorded and not anything_to_do)):
        return recorded.pop()
    return choose_encoder(tokenizer, config.encoder, islice(texts, COMPARED_DOCUMENTS))

"""Step of a datatrove pipeline that writes the documents of each task as one shard of a Megatron dataset.

Put it last in a pipeline. Readers and filters come before it, and datatrove's executors (local, Slurm, Ray, jobs of
Hugging Face) start the tasks. A task's rank is the index of its shard. The bytes are those of ``pause-megatron
preprocess`` on one file for each rank with the same documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from pause_megatron.config.preprocess import InsertionConfig, PreprocessConfig
from pause_megatron.corpus.blocks import Block, ReadOptions, Source
from pause_megatron.errors import UserError, quoted
from pause_megatron.optional_packages import packages_needed_by
from pause_megatron.preprocess.dataset_manifest import ShardManifest, ShardRecord
from pause_megatron.preprocess.dataset_settings import differing_setting
from pause_megatron.preprocess.output_folders import OutputFolder, output_folder
from pause_megatron.preprocess.planning import COMPARED_DOCUMENTS, dataset_settings
from pause_megatron.preprocess.run import Plan, finish_run, run_part
from pause_megatron.preprocess.shard import ShardJob, ShardOutput
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.encoders import choose_encoder

with packages_needed_by("datatrove_step"):
    from datatrove.pipeline.base import PipelineStep


class PauseDatasetWriter(PipelineStep):  # type: ignore[misc, unused-ignore]
    """Last step of a pipeline: writes one shard of each dataset for each task.

    The shard of rank R of W is ``part-R-of-W``, and the task that completes the last shard writes ``dataset.json``. A
    task that datatrove starts again writes its shard again. The number of tasks decides which documents are in which
    shard, so another number of tasks needs another ``output``.

    Args:
        output: folder of the dataset, or an address such as ``s3://bucket/data``.
        tokenizer: tokenizer with ``<pause>``, as ``preprocess --tokenizer``.
        insertion: places of pauses, sequence length in tokens, and seed.
        also: further datasets from the same pass, as ``preprocess --also``, for example ``("none:data/standard",)``.
        encoder: ``auto``, ``reference`` or ``gigatoken``, as ``preprocess --encoder``; ``auto`` compares both on the
            first documents of each task.
        max_document_megabytes: longest text, in megabytes; a longer one is an error. It bounds the memory of a task.

    Raises :class:`UserError` for unusable settings, when it is made; and in a task, for a folder with shards of another
    number of tasks or of other settings, an unusable tokenizer, a text that is not Unicode, and a full disk.
    """

    name = "Megatron dataset with pauses"
    type = "WRITER"

    def __init__(
        self,
        output: Path | str,
        tokenizer: Path | str,
        insertion: InsertionConfig | None = None,
        also: Sequence[str] = (),
        encoder: Literal["auto", "reference", "gigatoken", "word-table"] = "auto",
        max_document_megabytes: int = 256,
    ) -> None:
        super().__init__()
        self._config = PreprocessConfig(
            input=("datatrove",),
            tokenizer=Path(tokenizer),
            output=Path(output),
            insertion=insertion or InsertionConfig(),
            also=tuple(also),
            encoder=encoder,
            max_document_megabytes=max_document_megabytes,
        )

    def run(self, data: Iterable[Any] | None, rank: int = 0, world_size: int = 1) -> None:
        """Write the shard ``rank`` of ``world_size`` from the documents ``data``; passes no documents on.

        Raises :class:`UserError` as the class says.
        """
        sources = tuple(_TaskDocuments.of(task, world_size) for task in range(world_size))
        folders = [output_folder(path) for path, _ in self._config.outputs()]
        records = [_known_record(folder, sources, rank) for folder in folders]
        documents = iter(data or ())
        tokenizer = PauseTokenizer.load(self._config.tokenizer)
        encoder, documents = self._choose_encoder(tokenizer, records, sources[rank], documents)
        outputs = tuple(
            ShardOutput(folder=path, settings=dataset_settings(insertion, self._config.text_key, tokenizer, encoder))
            for path, insertion in self._config.outputs()
        )
        for folder, output, record in zip(folders, outputs, records, strict=True):
            _check_settings(folder, output, record)
            folder.sweep({sources[rank].name})
            folder.forget(sources[rank].name)
        job = ShardJob(
            source=_TaskDocuments.of(rank, world_size, documents, self.track_time(unit="block")),
            index=rank,
            options=ReadOptions(max_document_bytes=self._config.max_document_megabytes * 1_000_000),
            tokenizer=tokenizer.path,
            outputs=outputs,
            progress=folders[0].progress,
        )
        plan = Plan(sources=sources, outputs=outputs, jobs=(job,))
        self._count(run_part(plan, 0)[0])
        if all({source.name for source in sources} <= set(folder.shard_names()) for folder in folders):
            finish_run(plan)

    def _choose_encoder(
        self,
        tokenizer: PauseTokenizer,
        records: Sequence[ShardRecord | None],
        source: _TaskDocuments,
        documents: Iterator[Any],
    ) -> tuple[str, Iterator[Any]]:
        """Return the encoder, and ``documents`` of ``source`` again, of which it may have compared the first ones.

        ``auto`` takes the reference if the other tasks did: the first documents of one of them were encoded otherwise.
        """
        recorded = {record.settings.encoder for record in records if record}
        if self._config.encoder == "auto" and recorded == {tokenizer.encoder_name}:
            return tokenizer.encoder_name, documents
        first = list(islice(documents, COMPARED_DOCUMENTS))
        for document in first:
            source.text_bytes(document, self._config.max_document_megabytes * 1_000_000)
        texts = (document.text for document in first)
        return choose_encoder(tokenizer, self._config.encoder, texts), chain(first, documents)

    def _count(self, shard: ShardManifest) -> None:
        for name in ("documents", "tokens", "pauses"):
            self.stat_update(name, value=getattr(shard, name), unit="shard")


@dataclass(frozen=True, kw_only=True)
class _TaskDocuments(Source):
    """Documents that reach the last step of one task."""

    documents: Iterable[Any] = field(default=(), compare=False)
    """Documents of datatrove; ``text`` and ``id`` are read."""
    timer: Any = field(default=None, compare=False)
    """Context that measures the time spent on a block."""

    @classmethod
    def of(cls, task: int, tasks: int, documents: Iterable[Any] = (), timer: Any = None) -> _TaskDocuments:
        """Return the source of one of ``tasks`` tasks."""
        name, location = f"part-{task:05d}-of-{tasks:05d}", f"datatrove task {task} of {tasks}"
        return cls(name=name, location=location, documents=documents, timer=timer)

    def read(self, options: ReadOptions) -> Iterator[Block]:
        """Yield the documents in order. Raises :class:`UserError` as :meth:`text_bytes` does."""
        texts: list[str] = []
        size = 0
        for document in self.documents:
            texts.append(document.text)
            size += self.text_bytes(document, options.max_document_bytes)
            if size >= options.block_bytes:
                with self.timer:
                    yield Block(texts, size)
                texts, size = [], 0
        if texts:
            with self.timer:
                yield Block(texts, size)

    def text_bytes(self, document: Any, most: int) -> int:
        """Size of a document in UTF-8. Raises :class:`UserError` if it is not text, or has more than ``most`` bytes."""
        place = f"{self.location}, document {quoted(document.id)}"
        try:
            size = len(document.text.encode())
        except (AttributeError, UnicodeEncodeError) as error:
            raise UserError(f"{place}: not Unicode text ({error}); remove it in a step before") from error
        if size > most:
            raise UserError(
                f"{place}: {size} bytes long, more than the {most} allowed; raise max_document_megabytes, or remove it"
                " in a step before"
            )
        return size


def _known_record(folder: OutputFolder, sources: Sequence[Source], rank: int) -> ShardRecord | None:
    """Return a record of ``folder``, that of this ``rank`` if there is one, after a look at the names of all."""
    if folder.is_merged():
        raise UserError(f"{folder.place}: is a merged dataset, to which nothing can be added; give another output")
    names, expected = folder.shard_names(), {source.name for source in sources}
    if other := next((name for name in names if name not in expected), None):
        raise UserError(
            f"{folder.place}/{other}.json: is not of a pipeline with {len(sources)} tasks; give another output"
        )
    own = sources[rank].name
    names.sort(key=lambda name: name != own)
    return next((record for name in names if (record := folder.read_record(name))), None)


def _check_settings(folder: OutputFolder, output: ShardOutput, record: ShardRecord | None) -> None:
    if record and (setting := differing_setting(record.settings, output.settings)):
        raise UserError(
            f"{folder.place}/{record.shard.name}.json: was written with {setting}={getattr(record.settings, setting)}, "
            f"but this task uses {setting}={getattr(output.settings, setting)}; use the old value or another output"
        )

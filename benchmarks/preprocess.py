#!/usr/bin/env python
"""Preprocessing speed against Megatron-LM's tools and against the bare tokenizer.

    python benchmarks/preprocess.py --input 'c4-train.0000*.json.gz' --megatron-lm Megatron-LM --work work

Four comparisons on the same text with the same tokenizers, in tokens of the text per processor second of all processes
(end-of-document tokens count, pauses do not):

- classic: our tool, from gzipped shards, with pauses and hashes, against tools/preprocess_data.py, from one plain file
  (it does not read .gz without splitting the input first) and without pauses; --workers processes each.
- fast: our tool against tools/preprocess_data_fast.py, with one process and one gzipped file each, with peak memory.
- bare: the same runs of our tool against the tokenizer library on the same texts in memory. For unigram and t5 this is
  SentencePiece, which the word table replaces for most of the text.
- reference: our tool with the encoder that it chooses against our tool with --encoder reference.

The rates are marginal: the difference between the complete text and the first part of every shard (--small-share). Thus
start-up, which takes Megatron-LM's tools five processor seconds and does not matter on a large corpus, is in no rate; a
column shows it. Before the measurements, the tokens of both tools are compared.

--copies repeats a small text, for example to reach the size of one of C4's shards (825 MB of JSON) for the comparison
of memory. Rates on repeated text are not fair for our encoders, which look up words: all are known from the second
copy on. Use a long text without repeats for them.

Without --megatron-lm, only the last two comparisons run. Megatron-LM needs torch, transformers,
sentencepiece, triton and, for the fast tool, gigatoken and awkward; give an interpreter with them as --megatron-python.

Long because the commands, the check that they do the same work, and the tables of this one claim belong together.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import math
import os
import runpy
import shutil
import struct
import sys
import time
import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure
from measure import CommandError, Cost, Spread
from prepare import Text, find_shards, get_text
from vocabularies import KINDS, Vocabulary, get_vocabulary

CLASSIC, FAST = "tools/preprocess_data.py", "tools/preprocess_data_fast.py"
COMPARISONS = ("classic", "fast", "bare", "reference")
_OTHERS = {"classic": CLASSIC, "fast": FAST, "bare": "the bare tokenizer", "reference": "--encoder reference"}
C4_TOKENS = 156e9
_OUR_TOOL = Path(__file__).parents[1] / "tools" / "preprocess_c4.py"
_ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_IMPORT_SECONDS_FILE = "IMPORT_SECONDS_FILE"
_MEGATRON_IMPORTS = (
    "megatron.core.datasets.indexed_dataset",
    "megatron.core.tokenizers.text.libraries",
    "megatron.core.tokenizers.utils.build_tokenizer",
    "megatron.training.arguments",
)
_MAX_DIFFERING = 0.001
"""Share of documents that may differ between two tools that still count as doing the same work."""
_BLOCK_BYTES, _LLAMA_BLOCK_BYTES = 4 << 20, 16 << 20
_UNIT = "Million tokens per processor second: median (lowest-highest)."


@dataclass(frozen=True)
class Tools:
    """The compared commands; each runs on a text and returns its cost."""

    work: Path
    megatron_lm: Path | None
    megatron_python: str

    def ours(self, vocabulary: Vocabulary, inputs: tuple[Path, ...], workers: int, *more: str) -> Cost:
        """This project's tool on gzipped ``inputs``, with the flags ``more``."""
        shutil.rmtree(self.work / "ours", ignore_errors=True)
        flags = ["--tokenizer", vocabulary.ours, "--output", self.work / "ours", *more]
        return self._run([sys.executable, _OUR_TOOL, "--input", *inputs, *flags, "--workers", workers])

    def classic(self, vocabulary: Vocabulary, lines: Path, workers: int) -> Cost:
        """Megatron-LM's ``preprocess_data.py`` on a plain file."""
        kind = "HuggingFaceTokenizer" if vocabulary.kind == "bytes" else "SentencePieceTokenizer"
        flags = ["--tokenizer-type", kind, "--tokenizer-model", vocabulary.ours, "--workers", workers]
        return self._megatron(CLASSIC, lines, flags)

    def fast(self, vocabulary: Vocabulary, shard: Path) -> Cost:
        """Megatron-LM's ``preprocess_data_fast.py`` on a gzipped file, in one process."""
        flags = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", vocabulary.huggingface]
        return self._megatron(FAST, shard, [*flags, "--use-gigatoken"])

    def bare(self, vocabulary: Vocabulary, encoder: str, shard: Path) -> Cost:
        """The tokenizer library on the texts of ``shard`` in memory; only encoding counts."""
        cost = self._run([sys.executable, __file__, "encode", vocabulary.ours, encoder, shard])
        return replace(cost, cpu_seconds=float((self.work / "log").read_text(encoding="utf-8").splitlines()[-1]))

    def _megatron(self, tool: str, file: Path, flags: list[object]) -> Cost:
        output = self.work / "theirs"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        common = ["--input", file, "--output-prefix", output / "dataset", "--append-eod"]
        command = [self.megatron_python, __file__, "megatron", typing.cast(Path, self.megatron_lm).resolve(), tool]
        seconds = output / "import-seconds"
        cost = self._run([*command, *common, *flags], {_IMPORT_SECONDS_FILE: str(seconds)})
        return replace(cost, import_seconds=float(seconds.read_text(encoding="utf-8")))

    def _run(self, command: list[object], environment: dict[str, str] | None = None) -> Cost:
        return measure.run_measured(command, self.work / "log", _ONE_THREAD | (environment or {}))


def run_megatron_tool(checkout: str, tool: str, arguments: list[str]) -> None:
    """Run a tool of a Megatron-LM checkout without a GPU, and write the seconds of its imports to a file."""
    if not hasattr(typing, "override"):  # the checkout needs it; Python has it from 3.12 on
        import typing_extensions

        typing.override = typing_extensions.override  # type: ignore[attr-defined]
    os.environ["NO_VCS_VERSION"] = "1"  # otherwise importing Megatron-core starts git
    warnings.simplefilter("ignore")
    sys.path[0] = checkout  # first, so that it wins over an installed megatron-core
    for name in _MEGATRON_IMPORTS:
        importlib.import_module(name)
    Path(os.environ[_IMPORT_SECONDS_FILE]).write_text(str(time.process_time()), encoding="utf-8")
    sys.argv = [str(Path(checkout) / tool), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def encode(tokenizer: Path, encoder: str, file: Path) -> float:
    """Processor seconds of encoding the texts of ``file`` on one thread, in blocks as large as the tool's."""
    is_llama = encoder == "gigatoken" and tokenizer.suffix == ".model"
    texts = list(_blocks(file, _LLAMA_BLOCK_BYTES if is_llama else _BLOCK_BYTES))
    if encoder == "sentencepiece":
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_file=str(tokenizer))
        run: Callable[[list[str]], object] = lambda block: processor.encode(block, return_type="numpy", num_threads=1)  # noqa: E731
    elif encoder == "gigatoken":
        import gigatoken

        make = gigatoken.Tokenizer.from_sentencepiece if tokenizer.suffix == ".model" else gigatoken.Tokenizer
        loaded = make(str(tokenizer))
        run = lambda block: loaded.encode_batch(block, parallel=False)  # noqa: E731
    else:
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        encode_batch = getattr(fast, "encode_batch_fast", fast.encode_batch)  # one method from version 1.0 on
        run = lambda block: encode_batch(block, add_special_tokens=False)  # noqa: E731
    run(["A first text, which initializes what the library sets up on first use."])
    started = time.process_time()
    for block in texts:
        run(block)
    return time.process_time() - started


def _blocks(file: Path, block_bytes: int) -> Iterator[list[str]]:
    block, size = [], 0
    with gzip.open(file) as lines:
        for line in lines:
            block.append(json.loads(line)["text"])
            size += len(line)
            if size >= block_bytes:
                yield block
                block, size = [], 0
    yield block


def count_tokens(ours: Path) -> tuple[int, int]:
    """Documents and tokens of the text of a dataset that our tool wrote with ``--pauses none``."""
    from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest

    shards = load_dataset_manifest(ours).shards
    return sum(shard.documents for shard in shards), sum(shard.tokens + shard.tail_tokens for shard in shards)


def differing_documents(ours: Path, theirs: str) -> int:
    """Number of documents with different tokens in ``ours`` and in ``theirs``.

    Our tool, with ``--pauses none``, stores each shard as sequences without the last, incomplete one. Megatron-LM's
    tools store each document as a sequence, in the files ``theirs``.bin and ``theirs``.idx.
    """
    import numpy as np

    from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
    from pause_megatron.preprocess.indexed_files import token_dtype

    manifest = load_dataset_manifest(ours)
    dtype = token_dtype(manifest.vocab_size)
    header = struct.Struct("<9sQBQQ")
    with open(f"{theirs}.idx", "rb") as file:
        *_, sequences, _boundaries = header.unpack(file.read(header.size))
        ends = np.cumsum(np.fromfile(file, dtype=np.int32, count=sequences), dtype=np.int64)
    tokens = np.memmap(f"{theirs}.bin", dtype=dtype, mode="r")
    measure.require(len(ends) == sum(shard.documents for shard in manifest.shards), f"{theirs}: {len(ends)} documents")
    first = differing = 0
    for shard in manifest.shards:
        start = int(ends[first - 1]) if first else 0
        stored = np.memmap(ours / f"{shard.name}.bin", dtype=dtype, mode="r") if shard.tokens else np.empty(0, dtype)
        if not np.array_equal(stored, tokens[start : start + len(stored)]):
            our_ends = np.flatnonzero(stored == manifest.eod_id) + 1
            own = np.split(stored, our_ends)[: len(our_ends)]
            their_ends = ends[first : first + len(own)]
            other = np.split(tokens[start : int(their_ends[-1])], their_ends[:-1] - start)
            differing += sum(not np.array_equal(a, b) for a, b in zip(own, other, strict=True))
        first += shard.documents
    return differing


@dataclass(frozen=True)
class Runs:
    """The repeats of one candidate on the part and on the complete text."""

    part: list[Cost]
    complete: list[Cost]
    part_tokens: int
    complete_tokens: int

    @property
    def rates(self) -> list[float]:
        """Tokens per processor second of every repeat; not a number if the text is too short to measure."""
        tokens = self.complete_tokens - self.part_tokens
        seconds = [b.work_seconds - a.work_seconds for a, b in zip(self.part, self.complete, strict=True)]
        return [tokens / taken if taken > 0 else math.nan for taken in seconds]

    @property
    def start_up(self) -> str:
        """Processor seconds for a text without tokens."""
        pairs = zip(self.part, self.rates, strict=True)
        return f"{Spread.of(part.cpu_seconds - self.part_tokens / rate for part, rate in pairs).median:.1f}"

    @property
    def peaks(self) -> str:
        """Peak memory of one process in MB, on the part and on the complete text."""
        return ", ".join(f"{max(cost.peak_bytes for cost in costs) / 1e6:.0f}" for costs in (self.part, self.complete))


class Benchmark:
    """The comparisons with one tokenizer."""

    def __init__(self, arguments: argparse.Namespace, tools: Tools, texts: tuple[Text, Text], kind: str) -> None:
        """Train the tokenizer and count the tokens of the part and of the complete text."""
        self._arguments, self._tools, self._texts = arguments, tools, texts
        shards = list(texts[1].shards)
        self.vocabulary = get_vocabulary(kind, arguments.vocabularies, shards, arguments.vocabulary_size)
        self._tokens = []
        for text in texts:
            tools.ours(self.vocabulary, text.shards, arguments.workers, "--pauses", "none")
            self.documents, tokens = count_tokens(tools.work / "ours")
            self._tokens.append(tokens)
        self.encoder = json.loads((tools.work / "ours" / "dataset.json").read_text(encoding="utf-8"))["encoder"]

    def compare(self, name: str) -> tuple[dict[str, Runs], int]:
        """The runs of our tool (``ours``) and of candidate ``name``, and the number of documents that differ."""
        run, vocabulary, workers = self._tools, self.vocabulary, self._arguments.workers
        ours = lambda text: run.ours(vocabulary, (text.one,), 1)  # noqa: E731
        if name == "classic":
            ours = lambda text: run.ours(vocabulary, text.shards, workers)  # noqa: E731
        library = "sentencepiece" if self.encoder == "word-table" else self.encoder
        other = {
            "classic": lambda text: run.classic(vocabulary, text.lines, workers),
            "fast": lambda text: run.fast(vocabulary, text.one),
            "bare": lambda text: run.bare(vocabulary, library, text.one),
            "reference": lambda text: run.ours(vocabulary, (text.one,), 1, "--encoder", "reference"),
        }[name]
        differing = 0
        if name in ("classic", "fast"):
            inputs = self._texts[1].shards if name == "classic" else (self._texts[1].one,)
            run.ours(vocabulary, inputs, 1, "--pauses", "none")
            other(self._texts[1])
            differing = differing_documents(run.work / "ours", str(run.work / "theirs" / "dataset_text_document"))
            message = f"{vocabulary.kind}: {differing} of {self.documents} documents have other tokens in {name}"
            measure.require(differing <= _MAX_DIFFERING * self.documents, message)
        return self._measure({"ours": ours, name: other}), differing

    def _measure(self, candidates: dict[str, Callable[[Text], Cost]]) -> dict[str, Runs]:
        runs = {name: Runs([], [], *self._tokens) for name in candidates}
        for repeat in range(self._arguments.repeats):
            for name in measure.in_turn(candidates, repeat):
                runs[name].part.append(candidates[name](self._texts[0]))
                runs[name].complete.append(candidates[name](self._texts[1]))
                print(f"{self.vocabulary.kind} {name} {repeat + 1}: {runs[name].complete[-1]}", file=sys.stderr)
        return runs

    def row(self, name: str, runs: dict[str, Runs], differing: int) -> list[str]:
        """The row of a table."""
        ours, other = runs["ours"], runs[name]
        rates = Spread.of(ours.rates), Spread.of(other.rates)
        ratio = Spread.ratio(ours.rates, other.rates).show(bold=True)
        hours = " / ".join(f"{C4_TOKENS / rate.median / 3600:.1f}" for rate in rates)
        row = [f"{self.vocabulary.kind} ({self.encoder})", *(rate.show(1e6) for rate in rates), ratio]
        if name in ("bare", "reference"):
            return row
        memory = [ours.peaks, other.peaks] if name == "fast" else []
        return [*row, f"{ours.start_up} / {other.start_up}", hours, *memory, f"{differing} of {self.documents}"]


def _header(name: str) -> list[str]:
    if name in ("bare", "reference"):
        return ["tokenizer (encoder)", "ours", name, f"ours / {name}"]
    memory = ["our MB", "their MB"] if name == "fast" else []
    columns = ["tokenizer (our encoder)", "ours", "theirs", "ratio", "start-up, CPU s", "core-hours for C4"]
    return [*columns, *memory, "documents that differ"]


def main() -> None:
    """Measure and print the tables."""
    arguments = _parse()
    shards = find_shards(arguments.input)
    workers = f"--workers {arguments.workers}: --input has {len(shards)} shards, and each process needs one; lower it"
    measure.require(arguments.workers <= len(shards), workers)
    texts = tuple(get_text(shards, share, arguments.copies, arguments.work) for share in (arguments.small_share, 1))
    tools = Tools(arguments.work, arguments.megatron_lm, arguments.megatron_python)
    names = (
        arguments.compare
        if arguments.megatron_lm
        else [name for name in arguments.compare if name in ("bare", "reference")]
    )
    load, rows, found = measure.load_now(), {name: [] for name in names}, {name: {} for name in names}
    try:
        for kind in arguments.kinds:
            benchmark = Benchmark(arguments, tools, texts, kind)
            for name in names:
                if name != "fast" or benchmark.vocabulary.huggingface:
                    runs, differing = benchmark.compare(name)
                    rows[name].append(benchmark.row(name, runs, differing))
                    found[name][kind] = {who: vars(one) | {"rates": one.rates} for who, one in runs.items()}
    except CommandError as error:
        raise SystemExit(str(error)) from None
    megabytes = [text.json_bytes / 1e6 for text in texts]
    for name in names:
        processes = f"{arguments.workers} processes each" if name == "classic" else "one process, one gzipped file"
        measure.save_table(
            arguments.work,
            f"{name}-{arguments.name}",
            title=f"Against {_OTHERS[name]}, on {arguments.name}",
            text=f"{megabytes[1]:.1f} MB of JSON ({megabytes[0]:.1f} MB in the part) in {len(shards)} shards, "
            f"{arguments.copies} copies, {arguments.repeats} repeats; {processes}. {_UNIT}",
            header=_header(name),
            rows=rows[name],
            load=load,
            measurements=json.loads(json.dumps(found[name], default=vars)),
        )


def _parse() -> Any:
    parser = measure.new_parser(__doc__, repeats=3)
    parser.add_argument("--input", nargs="+", required=True, help="C4 shards (.json.gz), as paths or quoted globs")
    parser.add_argument("--megatron-lm", type=Path, help="checkout of Megatron-LM (default: leave its tools out)")
    parser.add_argument("--megatron-python", default=sys.executable, help="interpreter for Megatron-LM (this one)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="tokenizers (default: all)")
    parser.add_argument("--vocabulary-size", type=int, default=32_000, help="tokens of each tokenizer (32000)")
    parser.add_argument("--vocabularies", type=Path, help="folder of tokenizers (default: WORK/vocabularies)")
    parser.add_argument("--compare", nargs="+", choices=COMPARISONS, default=COMPARISONS, help="default: all")
    parser.add_argument(
        "--workers", type=int, default=measure.available_cores(), help="processes (default: one per core)"
    )
    parser.add_argument("--small-share", type=float, default=0.25, help="part of the text to run first (0.25)")
    parser.add_argument("--copies", type=int, default=1, help="copies of the text in each shard, see above (1)")
    parser.add_argument("--name", default="text", help="name of the text in the tables (default: text)")
    arguments = parser.parse_args()
    measure.require_at_least(1, arguments, "repeats", "workers", "copies")
    measure.require_at_least(1000, arguments, "vocabulary_size")
    measure.require(0 < arguments.small_share < 1, f"--small-share {arguments.small_share}: must be between 0 and 1")
    checkout = arguments.megatron_lm
    for tool in (CLASSIC, FAST):
        message = f"--megatron-lm {checkout}: {tool} does not exist; give the root of a Megatron-LM checkout"
        measure.require(checkout is None or (checkout / tool).is_file(), message)
    arguments.vocabularies = arguments.vocabularies or arguments.work / "vocabularies"
    arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["megatron", checkout, tool, *rest]:
            run_megatron_tool(checkout, tool, rest)
        case ["encode", tokenizer, encoder, file]:
            print(encode(Path(tokenizer), encoder, Path(file)))
        case _:
            main()

"""The commands that are compared: this project's tool, Megatron-LM's two, and the bare tokenizer.

Each is run on a text and answers with what it cost. Every process is held to one thread, so that the number of
processes says how much runs at once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from cpu_time import CommandError, Cost, run_measured
from megatron_launcher import IMPORT_SECONDS_FILE
from vocabularies import Vocabulary

HERE = Path(__file__).parent
OUR_TOOL = HERE.parent / "tools" / "preprocess_c4.py"
CLASSIC = "tools/preprocess_data.py"
FAST = "tools/preprocess_data_fast.py"
_ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Commands:
    """Where things are, and the commands on them."""

    work: Path
    """Folder for what the tools write."""
    megatron_lm: Path | None
    """Checkout of Megatron-LM."""
    megatron_python: str
    """Interpreter with what the checkout needs."""

    @property
    def log(self) -> Path:
        """Output of the command that ran last."""
        return self.work / "last-command.log"

    def ours(self, vocabulary: Vocabulary, inputs: tuple[Path, ...], workers: int, pauses: str = "sequence") -> Cost:
        """This project's tool on gzipped ``inputs``; the dataset is left in :attr:`our_output`."""
        shutil.rmtree(self.our_output, ignore_errors=True)
        flags = ["--tokenizer", vocabulary.ours, "--output", self.our_output, "--pauses", pauses]
        command = [sys.executable, OUR_TOOL, "--input", *inputs, *flags, "--workers", str(workers)]
        return run_measured(list(map(str, command)), self.log, _ONE_THREAD)

    @property
    def our_output(self) -> Path:
        """Folder of the dataset that :meth:`ours` wrote last."""
        return self.work / "ours"

    @property
    def our_encoder(self) -> str:
        """What encoded in the last run of :meth:`ours`."""
        manifest = json.loads((self.our_output / "dataset.json").read_text(encoding="utf-8"))
        return str(manifest["encoder"])

    def classic(self, vocabulary: Vocabulary, lines: Path, workers: int) -> Cost:
        """Megatron-LM's ``preprocess_data.py`` on a plain file; the dataset is left at :attr:`their_output`."""
        return self._megatron(CLASSIC, lines, [*vocabulary.classic_flags, "--workers", str(workers)])

    def fast(self, vocabulary: Vocabulary, shard: Path) -> Cost:
        """Megatron-LM's ``preprocess_data_fast.py`` on a gzipped file, in one process."""
        return self._megatron(FAST, shard, vocabulary.fast_flags)

    @property
    def their_output(self) -> str:
        """Prefix of the dataset that Megatron-LM wrote last."""
        return str(self.work / "theirs" / "dataset_text_document")

    def _megatron(self, tool: str, file: Path, flags: list[str]) -> Cost:
        assert self.megatron_lm is not None
        output = self.work / "theirs"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        start = [self.megatron_python, str(HERE / "megatron_launcher.py"), str(self.megatron_lm.resolve()), tool]
        common = ["--input", str(file), "--output-prefix", str(output / "dataset"), "--append-eod"]
        importing = self.work / "import-seconds"
        cost = run_measured([*start, *common, *flags], self.log, _ONE_THREAD | {IMPORT_SECONDS_FILE: str(importing)})
        return replace(cost, import_seconds=float(importing.read_text(encoding="utf-8")))

    def bare(self, vocabulary: Vocabulary, encoder: str, shard: Path) -> Cost:
        """The tokenizer alone on the texts of ``shard``, which are in memory; only encoding counts."""
        script = str(HERE / "bare_tokenizer.py")
        cost = run_measured([sys.executable, script, str(vocabulary.ours), encoder, str(shard)], self.log, _ONE_THREAD)
        encoding = json.loads(self.log.read_text(encoding="utf-8").splitlines()[-1])
        return Cost(encoding["cpu_seconds"], cost.wall_seconds, cost.peak_bytes)

    def same_tokens(self, against_theirs: bool) -> dict[str, int]:
        """Documents and tokens that :meth:`ours` read last; with theirs, also the documents that differ."""
        command = [sys.executable, str(HERE / "same_tokens.py"), str(self.our_output)]
        if against_theirs:
            command.append(self.their_output)
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise CommandError(f"{' '.join(command)} failed")
        counts: dict[str, int] = json.loads(done.stdout)
        return counts

import os
import pty
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron.cli.commands import TOOLS
from pause_megatron.cli.main import run_command
from pause_megatron.config.dataset import InspectDatasetConfig, MergeDatasetsConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.inspection.inspect_dataset import inspect_dataset
from pause_megatron.preprocess.merge import merge_datasets
from pause_megatron.preprocess.run import preprocess
from tests.preprocess.finished_datasets import KINDS, Damaged

TOOL = Path(__file__).parents[3] / "tools" / "inspect_dataset.py"


@pytest.fixture
def inspected(datasets, tokenizer, capsys):
    def run(name, **options):
        inspect_dataset(InspectDatasetConfig(data=datasets / name, tokenizer=tokenizer.path, **options))
        return capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("name", [*KINDS, "none"])
def test_statistics_are_the_manifests(datasets, inspected, name):
    manifest = load_dataset_manifest(datasets / name)
    lines = inspected(name, samples=1)
    table = {line[:18].strip(): line[18:] for line in lines[: lines.index("")]}
    assert table["sequences"].startswith(f"{manifest.sequences:,}")
    assert table["tokens"].startswith(f"{manifest.tokens:,}; {manifest.pauses:,} pauses (")
    assert table["documents"].startswith(f"{sum(shard.documents for shard in manifest.shards):,}; 0 empty ones")
    assert ("pauses in a row" in table) == (name != "none")
    assert sum(line.startswith("sequence ") for line in lines) == 1


def test_samples_by_index(datasets, inspected):
    first = load_dataset_manifest(datasets / "sequence").shards[0].sequences
    lines = inspected("sequence", indices=(5, first + 7), tokens=10)
    assert [line.split(":")[0] for line in lines if line.startswith("sequence ")] == [
        "sequence 5 (5 of shard pydoc-train.00000-of-00003)",
        f"sequence {first + 7} (7 of shard pydoc-train.00001-of-00003)",
    ]
    assert lines.count("... 54 more tokens") == 2


def test_merged_dataset_shows_the_same(datasets, inspected):
    merge_datasets(MergeDatasetsConfig(input=(datasets / "document",), output=datasets / "document-merged"))
    single, merged = inspected("document"), inspected("document-merged")
    assert single[1:] == merged[1:]
    assert merged[0].endswith("3 shards in 1 .bin and .idx files")


@pytest.mark.parametrize("name", ["sequence", "document-distinct", "every", "none"])
def test_picture_is_drawn(tmp_path, inspected, name):
    inspected(name, samples=0, histogram=tmp_path / "picture.png")
    header = (tmp_path / "picture.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", header[16:])
    assert (width > 1000 and height > 800) if name != "none" else (width > 500 and height > 400)


def test_picture_of_text_without_a_complete_document(tmp_path, tokenizer, config_for):
    (tmp_path / "a.jsonl").write_text('{"text": "' + "one long document " * 100 + '"}\n')
    preprocess(config_for(tmp_path / "data", input=(str(tmp_path / "a.jsonl"),), seq_length=64))
    picture = tmp_path / "picture.svg"
    inspect_dataset(InspectDatasetConfig(data=tmp_path / "data", tokenizer=tokenizer.path, histogram=picture))
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize(
    ("path", "complaint"),
    [("picture.doc", "Format 'doc' is not supported"), ("nowhere/picture.png", "No such file or directory")],
)
def test_picture_that_cannot_be_written_is_a_user_error(tmp_path, inspected, path, complaint):
    with pytest.raises(UserError, match=f"--histogram .*{path}: .*{complaint}"):
        inspected("sequence", histogram=tmp_path / path)


def test_another_tokenizer_is_refused(tmp_path, datasets, inspected, tokenizer):
    other = Damaged(datasets / "none", tmp_path / "other")
    other.change_settings(tokenizer_sha256="f" * 64)
    with pytest.raises(UserError, match=r"--tokenizer .*: .* was written with another tokenizer"):
        inspected(other.folder)


@pytest.mark.parametrize("flags", [["--samples", "-1"], ["--indices", "0", "-2"], ["--indices", "100000"]])
def test_impossible_flags_are_one_line(datasets, tokenizer, capsys, flags):
    arguments = ["--data", str(datasets / "none"), "--tokenizer", str(tokenizer.path), *flags]
    assert run_command(TOOLS["inspect_dataset.py"], "inspect_dataset.py", arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {flags[0]}")


LOADED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    heavy = {"torch", "transformers", "megatron", "matplotlib"} & set(sys.modules)
    sys.exit(str(heavy) if heavy or end.code else 0)
"""


def test_tool_is_plain_text_in_a_pipe_and_loads_nothing_heavy(datasets, tokenizer):
    command = [sys.executable, "-c", LOADED, TOOL, "--data", datasets / "sequence", "--tokenizer", tokenizer.path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "<pause>│" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 140


@pytest.mark.usefixtures("needs_terminals")
def test_tool_is_coloured_on_a_terminal(datasets, tokenizer):
    here, there = pty.openpty()
    command = [sys.executable, TOOL, "--data", datasets / "sequence", "--tokenizer", tokenizer.path, "--tokens", "20"]
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    process = subprocess.Popen(list(map(str, command)), stdout=there, env={**environment, "TERM": "xterm-256color"})
    os.close(there)
    said = b""
    try:
        while chunk := os.read(here, 4096):
            said += chunk
    except OSError:  # how a terminal's end shows
        pass
    assert process.wait(timeout=60) == 0
    assert b"\x1b[30;48;5;" in said

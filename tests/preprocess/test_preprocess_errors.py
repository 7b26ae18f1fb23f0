import gzip
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron.cli.commands import TOOLS
from pause_megatron.cli.main import run_command
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.run import preprocess
from tests.chain import verified
from tests.disk import small_disk
from tests.preprocess.conftest import contents

ROOT = Path(__file__).parents[2]
GOOD = b'{"text": "good text"}\n'
LONG = b'{"text": "' + b"words of a good text " * 50 + b'"}\n'


def run(tokenizer, *flags):
    arguments = ["--tokenizer", str(tokenizer.path), "--seq-length", "32", "--engine", "serial", *map(str, flags)]
    return run_command(TOOLS["preprocess_c4.py"], "preprocess_c4.py", arguments)


def flipped(content, position):
    """``content`` with one bit changed."""
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


PACKED = gzip.compress(b"".join(b'{"text": "text number %d"}\n' % i for i in range(5000)))
BAD_INPUTS = [
    ("bad.jsonl", GOOD * 5000 + b'{"text": \n' + GOOD, "bad.jsonl, line 5001: not valid JSON", 5001),
    ("bad.jsonl", GOOD * 5 + b'{"text": 7}\n' + GOOD * 50, "bad.jsonl, line 6: Expected `str`, got `int`", 55),
    ("bad.jsonl", GOOD * 50 + b'{"url": "u"}\n', "bad.jsonl, line 51: Object missing required field `text`", 50),
    ("bad.jsonl", GOOD * 50 + b'{"text": "\xff"}\n', "bad.jsonl, line 51: not valid UTF-8", 50),
    ("bad.json.gz", PACKED[: len(PACKED) // 2], "bad.json.gz", None),
    ("bad.json.gz", flipped(PACKED, len(PACKED) - 6), "bad.json.gz", 0),  # the checksum at its end
    ("bad.json.gz", GOOD, "bad.json.gz", 0),
]


@pytest.mark.parametrize(("name", "content", "complaint", "readable"), BAD_INPUTS)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, tokenizer, capsys, name, content, complaint, readable):
    (tmp_path / name).write_bytes(content)
    assert run(tokenizer, "--input", tmp_path / name, "--output", tmp_path / "data") == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith("error: ")
    assert complaint in last_line
    assert contents(tmp_path / "data") == {}


@pytest.mark.parametrize(("name", "content", "complaint", "readable"), BAD_INPUTS)
def test_bad_input_is_skipped_counted_and_listed(tmp_path, tokenizer, capsys, name, content, complaint, readable):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.jsonl").write_bytes(GOOD * 500)
    flags = ["--input", tmp_path / name, tmp_path / "good.jsonl", "--output", tmp_path / "data", "--on-error", "skip"]
    assert run(tokenizer, *flags) == 0
    bad, good = verified(tmp_path / "data").shards
    assert (good.documents, good.skipped_records) == (500, 0)
    assert bad.skipped_records == len(bad.skipped) == 1
    assert bad.documents == readable if readable is not None else 1000 < bad.documents < 5000
    line = re.search(r"line (\d+)", complaint)
    if line:
        assert bad.skipped[0].line == int(line[1])
        assert complaint.endswith(bad.skipped[0].reason) or complaint.split(": ", 1)[1] in bad.skipped[0].reason
    assert "1 records could not be read and were left out" in capsys.readouterr().err


def test_a_stopped_run_can_be_repeated_with_skipping(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_bytes(GOOD * 500)
    (tmp_path / "b.jsonl").write_bytes(GOOD * 500 + b"{}\n")
    flags = ["--input", tmp_path / "*.jsonl", "--output", tmp_path / "data"]
    assert run(tokenizer, *flags) == 2
    assert run(tokenizer, *flags, "--on-error", "skip") == 0
    assert [shard.skipped_records for shard in load_dataset_manifest(tmp_path / "data").shards] == [0, 1]


def test_good_shards_of_a_failed_run_are_kept(tmp_path, tokenizer):
    (tmp_path / "good.jsonl").write_bytes(GOOD * 500)
    (tmp_path / "poor.jsonl").write_bytes(b"{}\n")
    flags = ["--input", tmp_path / "*.jsonl", "--output", tmp_path / "data"]
    assert run(tokenizer, *flags) == 2
    assert set(contents(tmp_path / "data")) == {"good.bin", "good.idx", "good.json"}
    (tmp_path / "poor.jsonl").write_bytes(GOOD * 500)
    assert run(tokenizer, *flags) == 0
    assert (tmp_path / "data/dataset.json").is_file()


@pytest.mark.parametrize("kilobytes", [16, 240, 252, 256])
def test_full_disk_is_named_and_the_repeated_run_completes(tmp_path, tokenizer, capsys, kilobytes):
    for name in ("a", "b"):  # either makes 230 kB
        (tmp_path / f"{name}.jsonl").write_bytes(LONG * 500)
    flags = ["--input", tmp_path / "*.jsonl", "--output", tmp_path / "disk/data"]
    with small_disk(tmp_path / "disk", f"{kilobytes}k") as resize:
        assert run(tokenizer, *flags) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert re.match(r"error: .*/disk/.*: No space left on device; free disk space", said)
        finished = {path.stem for path in (tmp_path / "disk/data").glob("*.json")}
        assert finished <= {"a"}
        resize("10m")
        assert run(tokenizer, *flags) == 0
        verified(tmp_path / "disk/data")
        again = contents(tmp_path / "disk/data")
    assert run(tokenizer, *flags[:-1], tmp_path / "fresh") == 0
    assert again == contents(tmp_path / "fresh")


def test_a_killed_worker_is_reported_and_a_rerun_completes(tmp_path, tokenizer, c4_shards, config_for):
    command = [sys.executable, str(ROOT / "tools/preprocess_c4.py"), "--input", *c4_shards, "--workers", "2"]
    command += ["--tokenizer", str(tokenizer.path), "--output", str(tmp_path / "data"), "--seq-length", "256"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    worker = None
    while worker is None and process.poll() is None:
        for log_file in (tmp_path / "data/progress").glob("*.jsonl"):
            worker = int(log_file.stem.rpartition("-")[2])
    os.kill(worker, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "a worker process was killed (out of memory?); complete shards are kept" in said
    preprocess(config_for(tmp_path / "data", input=c4_shards))
    preprocess(config_for(tmp_path / "fresh", input=c4_shards))
    assert contents(tmp_path / "data") == contents(tmp_path / "fresh")


def test_a_shard_that_another_run_is_writing_is_refused(tmp_path, config_for, corpus):
    name = corpus.train[0].name.removesuffix(".json.gz")
    command = [sys.executable, "-c", WRITES_SLOWLY, str(tmp_path / "data" / f"{name}.bin")]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    with pytest.raises(UserError, match=f"another run is writing shard {name}; wait"):
        preprocess(config_for(tmp_path / "data"))
    writer.kill()
    writer.wait()
    assert len(list((tmp_path / "data").glob(".*.tmp"))) == 1
    preprocess(config_for(tmp_path / "data"))
    assert not list((tmp_path / "data").glob(".*.tmp"))


WRITES_SLOWLY = """
import sys, time
from pathlib import Path
from pause_megatron.atomic import write_file
with write_file(Path(sys.argv[1])):
    print("writing", flush=True)
    time.sleep(100)
"""


def test_empty_glob_is_a_user_error(tmp_path, tokenizer, capsys):
    assert run(tokenizer, "--input", tmp_path / "*.json.gz", "--output", tmp_path / "data") == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_text_that_fills_no_sequence_is_a_user_error(tmp_path, tokenizer, capsys):
    (tmp_path / "short.jsonl").write_bytes(GOOD)
    assert run(tokenizer, "--input", tmp_path / "short.jsonl", "--output", tmp_path / "data") == 2
    assert re.search(r"--seq-length 32: no input file fills a sequence, .* \d+ tokens", capsys.readouterr().err)
    assert not (tmp_path / "data/dataset.json").exists()


def test_missing_tokenizer_is_a_user_error(tmp_path, config_for):
    with pytest.raises(UserError, match="make one with `pause-megatron tokenizer`"):
        preprocess(config_for(tmp_path / "data", tokenizer=tmp_path / "nothing"))
    assert not (tmp_path / "data").exists()


def test_inputs_of_one_name_are_refused(tmp_path, config_for):
    paths = [tmp_path / "a" / "text.jsonl", tmp_path / "b" / "text.json.gz"]
    for path in paths:
        path.parent.mkdir()
        path.touch()
    with pytest.raises(UserError, match="the shard name 'text' is taken or reserved"):
        preprocess(config_for(tmp_path / "data", input=tuple(map(str, paths))))


def test_input_folder_is_never_written_to(tmp_path, config_for):
    (tmp_path / "text.json").write_bytes(GOOD * 5000)
    with pytest.raises(UserError, match="give the dataset its own folder"):
        preprocess(config_for(tmp_path, input=(str(tmp_path / "text.json"),)))
    with pytest.raises(UserError, match="give the dataset its own folder"):
        also = (f"none:{tmp_path}",)
        preprocess(config_for(tmp_path / "data", input=(str(tmp_path / "text.json"),), also=also))
    assert (tmp_path / "text.json").read_bytes() == GOOD * 5000


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"input": ()}, "--input"),
        ({"seq_length": 1}, "--seq-length 1"),
        ({"seed": -1}, "--seed -1"),
        ({"workers": -1}, "--workers -1"),
        ({"pause_rate": 1.0}, "--pause-rate 1.0"),
        ({"pause_rate": 0.0}, "for data without pauses use --pauses none"),
        ({"pause_rate": 0.01, "seq_length": 64}, "one pause per sequence"),
        ({"pauses": "document", "pause_rate": 0.0}, "--pause-rate 0.0: must be above 0"),
        ({"pause_rate": 0.5, "rates": "drawn"}, "--pause-rate 0.5: --rates drawn draws rates up to twice as large"),
        ({"pauses": "every", "pauses_per_token": 0}, "--pauses-per-token 0: must be at least 1"),
        ({"pauses": "every", "pauses_per_token": 2}, "must be a multiple of 3, for example 255"),
        ({"pauses": "every", "pause_interval": 0}, "--pause-interval 0: must be at least 1"),
        ({"pauses": "every", "pause_interval": 2}, "2 tokens with their pauses take 3 positions"),
        ({"text_key": ""}, "--text-key"),
        ({"max_document_megabytes": 0}, "--max-document-megabytes 0"),
        ({"shard_range": "3"}, "--shard-range 3: must be START:END"),
        ({"shard_range": "3:3"}, "--shard-range 3:3: must be START:END with START below END"),
        ({"shard_range": "-1:3"}, "--shard-range -1:3"),
        ({"shard_range": "3/3"}, "--shard-range 3/3: must be START:END with START below END, or PART/PARTS"),
        ({"shard_range": "0/"}, "--shard-range 0/: must be"),
        ({"also": ("none",)}, "--also none: must be STRATEGY"),
        ({"also": ("noon:data",)}, "--also noon:data: Invalid enum value 'noon'"),
        ({"also": ("none,sed=3:data",)}, "--also none,sed=3:data: unknown flag 'sed'; use one of pause-rate"),
        ({"also": ("none,seed=x:data",)}, "--also none,seed=x:data: Expected `int`"),
        ({"also": ("every,pauses-per-token=2:data",)}, "--also every,pauses-per-token=2:data: --pauses-per-token 2"),
        ({"also": ("none:data", "every:./data")}, "is given for two datasets; give each its own folder"),
    ],
)
def test_impossible_settings_name_the_flag(tmp_path, config_for, changes, complaint):
    with pytest.raises(UserError, match=re.escape(complaint)):
        config_for(tmp_path, **changes)

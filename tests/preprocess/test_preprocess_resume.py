import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.run import preprocess
from tests.preprocess.conftest import contents

ROOT = Path(__file__).parents[2]


def test_a_run_killed_three_times_is_resumed_to_the_same_bytes(tmp_path, config_for, tokenizer, c4_shards):
    """SIGKILL to the whole process group at random moments: between shards, within one, while files get their names."""
    command = [sys.executable, str(ROOT / "tools/preprocess_c4.py"), "--input", *c4_shards, "--workers", "2"]
    command += ["--tokenizer", str(tokenizer.path), "--output", str(tmp_path / "data"), "--seq-length", "256"]
    moments = random.Random(20261124)
    left_half_written = 0
    for _ in range(3):
        enough = written_bytes(tmp_path / "data") + moments.randrange(1, 600_000)
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        while written_bytes(tmp_path / "data") < enough and process.poll() is None:
            pass
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        left_half_written += len(list((tmp_path / "data").glob(".*.tmp")))
        for record in (tmp_path / "data").glob("*.json"):  # what bears a record is whole
            assert (tmp_path / "data" / f"{record.stem}.idx").is_file()
        with pytest.raises(UserError, match=r"no dataset\.json"):
            load_dataset_manifest(tmp_path / "data")
    assert left_half_written
    assert subprocess.run(command, check=False).returncode == 0
    preprocess(config_for(tmp_path / "fresh", input=c4_shards))
    assert contents(tmp_path / "data") == contents(tmp_path / "fresh")


def written_bytes(folder):
    """Size of everything in ``folder``, half-written or not."""
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed just now
            continue
    return total


def test_worker_processes_end_when_their_parent_is_killed():
    code = (
        "import os, time; from pause_megatron.preprocess.executors import new_process_pool\n"
        "if __name__ == '__main__':\n"
        "    print(new_process_pool(1).submit(os.getpid).result(), flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert int(parent.stdout.readline()) != parent.pid
    parent.kill()
    parent.communicate(timeout=20)  # the pipe is closed when the last process that holds it is gone


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"seed": 5}, "was written with seed=1234, but this run uses seed=5; use the old value"),
        ({"seq_length": 128}, "was written with seq_length=256, but this run uses seq_length=128; use the old value"),
        ({"pause_rate": 0.2}, "was written with pause_rate=0.1, but this run uses pause_rate=0.2; use the old value"),
        ({"trimmed": "drop"}, "was written with trimmed=carry, but this run uses trimmed=drop; use the old value"),
        ({"pauses": "none"}, "was written with strategy=sequence, but this run uses strategy=none; use the old value"),
        ({"gaps": "distinct"}, "was written with gaps=repeat, but this run uses gaps=distinct; use the old value"),
        ({"text_key": "url"}, "was written with text_key=text, but this run uses text_key=url; use the old value"),
    ],
)
def test_other_settings_are_refused(tmp_path, config_for, changes, complaint):
    preprocess(config_for(tmp_path))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")}
    with pytest.raises(UserError, match=complaint):
        preprocess(config_for(tmp_path, **changes))
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")} == before


def test_other_input_is_refused(tmp_path, config_for, corpus):
    inputs = [tmp_path / "in" / path.name for path in corpus.train]
    inputs[0].parent.mkdir()
    for source, copy in zip(corpus.train, inputs, strict=True):
        shutil.copy(source, copy)
    names = tuple(map(str, inputs))
    preprocess(config_for(tmp_path / "data", input=names))
    with pytest.raises(UserError, match="which is not in --input; give another --output"):
        preprocess(config_for(tmp_path / "data", input=names[:2]))
    shutil.copy(corpus.validation, tmp_path / "in" / "a.json.gz")
    with pytest.raises(UserError, match="or its place in --input has changed"):
        preprocess(config_for(tmp_path / "data", input=(*names, str(tmp_path / "in" / "a.json.gz"))))
    shutil.copy(corpus.train[1], inputs[0])
    with pytest.raises(UserError, match="or its place in --input has changed"):
        preprocess(config_for(tmp_path / "data", input=names))


def test_input_added_at_the_end_extends_the_dataset(tmp_path, config_for, corpus, capsys):
    inputs = tuple(map(str, corpus.train))
    preprocess(config_for(tmp_path / "data", input=inputs[:2]))
    preprocess(config_for(tmp_path / "data", input=inputs))
    assert "3 shards: 1 to do in this run, 2 complete" in capsys.readouterr().err
    preprocess(config_for(tmp_path / "fresh", input=inputs))
    assert (tmp_path / "data/dataset.json").read_bytes() == (tmp_path / "fresh/dataset.json").read_bytes()


def test_dataset_is_checked_when_it_is_opened(tmp_path, config_for):
    preprocess(config_for(tmp_path))
    shard = load_dataset_manifest(tmp_path).shards[1]
    path = tmp_path / f"{shard.name}.bin"
    content = bytearray(path.read_bytes())

    os.truncate(path, len(content) - 2)
    with pytest.raises(UserError, match=rf"\.bin: has {len(content) - 2} bytes instead of the {len(content)} in its"):
        load_dataset_manifest(tmp_path)
    with pytest.raises(UserError, match="remove the shard's files and preprocess again"):
        preprocess(config_for(tmp_path))

    path.unlink()
    with pytest.raises(UserError, match=r"\.bin: missing"):
        load_dataset_manifest(tmp_path)


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
@pytest.mark.parametrize("zeros", [8, 512])
def test_zeros_at_the_end_of_a_complete_shard_are_refused(tmp_path, config_for, suffix, zeros):
    """A crash of the machine may leave a file of the right size whose last blocks were not written."""
    preprocess(config_for(tmp_path))
    shards = load_dataset_manifest(tmp_path).shards
    (tmp_path / "dataset.json").unlink()
    for path in tmp_path.glob(f"{shards[-1].name}.*"):  # the shard that the run has yet to write
        path.unlink()
    path = tmp_path / f"{shards[1].name}{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[:-zeros] + bytes(zeros))
    with pytest.raises(UserError, match=rf"^{path}: its SHA-256 is not that in {shards[1].name}\.json; remove "):
        preprocess(config_for(tmp_path))
    assert not (tmp_path / "dataset.json").exists()
    preprocess(config_for(tmp_path, shard_range="0:1"))  # another shard is none of its business

    for name in tmp_path.glob(f"{shards[1].name}.*"):
        name.unlink()
    preprocess(config_for(tmp_path))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "dataset.json: not complete JSON"),
        ("{}", "expected format 'pause_megatron/dataset/2', found 'None'"),
        (None, "expected format 'pause_megatron/dataset/2', found 'pause_megatron/dataset/0'"),
    ],
)
def test_damaged_manifest_is_a_user_error(tmp_path, config_for, content, complaint):
    preprocess(config_for(tmp_path))
    path = tmp_path / "dataset.json"
    other_format = {**json.loads(path.read_text()), "format": "pause_megatron/dataset/0"}
    path.write_text(json.dumps(other_format) if content is None else content)
    with pytest.raises(UserError, match=complaint):
        load_dataset_manifest(tmp_path)

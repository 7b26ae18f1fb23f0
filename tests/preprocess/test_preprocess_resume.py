import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from pause_megatron.cli.commands import TOOLS
from pause_megatron.cli.main import run_command
from pause_megatron.errors import UserError
from pause_megatron.preprocess.manifest import load_dataset_manifest
from pause_megatron.preprocess.run import preprocess

KILLED_IN_THE_SECOND_SHARD = """
import os, signal, sys
from pause_megatron.cli.main import tool_main
from pause_megatron.preprocess import shard

read, calls = shard.read_documents, []

def read_documents(path):
    calls.append(path)
    for block in read(path, 20_000):
        yield block
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

shard.read_documents = read_documents
tool_main("preprocess_c4.py")
"""


def test_killed_run_is_resumed_where_it_ended(tmp_path, config_for, corpus, tokenizer):
    flags = ["--tokenizer", str(tokenizer.path), "--seq-length", "256", "--engine", "serial"]
    flags += ["--output", str(tmp_path / "data"), "--input", *map(str, corpus.train)]
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_THE_SECOND_SHARD, *flags], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = {path.name for path in (tmp_path / "data").iterdir()}
    finished = [name for name in left if name.endswith(".json")]
    assert len(finished) == 1
    assert any(name.endswith(".tmp") for name in left)
    with pytest.raises(UserError, match=r"no dataset\.json"):
        load_dataset_manifest(tmp_path / "data")
    inode = (tmp_path / "data" / finished[0]).stat().st_ino

    assert run_command(TOOLS["preprocess_c4.py"], "preprocess_c4.py", flags) == 0
    assert (tmp_path / "data" / finished[0]).stat().st_ino == inode
    preprocess(config_for(tmp_path / "fresh"))
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "fresh").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == fresh


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
        ({"seed": 5}, "written with seed 1234, not 5"),
        ({"seq_length": 128}, "written with seq_length 256, not 128"),
        ({"pause_rate": 0.2}, "written with pause_rate 0.1, not 0.2"),
        ({"trimmed": "drop"}, "written with trimmed carry, not drop"),
        ({"pauses": "none"}, "written with strategy sequence, not none"),
    ],
)
def test_other_settings_are_refused(tmp_path, config_for, changes, complaint):
    preprocess(config_for(tmp_path))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=complaint):
        preprocess(config_for(tmp_path, **changes))
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_other_input_is_refused(tmp_path, config_for, corpus):
    inputs = [tmp_path / "in" / path.name for path in corpus.train]
    inputs[0].parent.mkdir()
    for source, copy in zip(corpus.train, inputs, strict=True):
        shutil.copy(source, copy)
    names = tuple(map(str, inputs))
    preprocess(config_for(tmp_path / "data", input=names))
    with pytest.raises(UserError, match="is not among --input now"):
        preprocess(config_for(tmp_path / "data", input=names[:2]))
    shutil.copy(corpus.validation, tmp_path / "in" / "a.json.gz")
    with pytest.raises(UserError, match="or its place among --input has changed"):
        preprocess(config_for(tmp_path / "data", input=(*names, str(tmp_path / "in" / "a.json.gz"))))
    shutil.copy(corpus.train[1], inputs[0])
    with pytest.raises(UserError, match="or its place among --input has changed"):
        preprocess(config_for(tmp_path / "data", input=names))


def test_input_added_at_the_end_extends_the_dataset(tmp_path, config_for, corpus, capsys):
    inputs = tuple(map(str, corpus.train))
    preprocess(config_for(tmp_path / "data", input=inputs[:2]))
    preprocess(config_for(tmp_path / "data", input=inputs))
    assert "3 shards, 2 of them done already" in capsys.readouterr().err
    preprocess(config_for(tmp_path / "fresh", input=inputs))
    assert (tmp_path / "data/dataset.json").read_bytes() == (tmp_path / "fresh/dataset.json").read_bytes()


def test_dataset_is_checked_when_it_is_opened(tmp_path, config_for):
    preprocess(config_for(tmp_path))
    shard = load_dataset_manifest(tmp_path).shards[1]
    path = tmp_path / f"{shard.name}.bin"
    content = bytearray(path.read_bytes())

    content[100] ^= 1
    path.write_bytes(content)
    load_dataset_manifest(tmp_path)
    with pytest.raises(UserError, match=r"\.bin: its content has changed"):
        load_dataset_manifest(tmp_path, verify_hashes=True)

    os.truncate(path, len(content) - 2)
    with pytest.raises(UserError, match=rf"\.bin: has {len(content) - 2} bytes, its manifest says {len(content)}"):
        load_dataset_manifest(tmp_path)
    with pytest.raises(UserError, match="remove the shard and preprocess again"):
        preprocess(config_for(tmp_path))

    path.unlink()
    with pytest.raises(UserError, match=r"\.bin: missing"):
        load_dataset_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not a manifest of this project"),
        ("{}", "missing required field `strategy`"),
        (None, r"format 'pause_megatron/dataset/0', expected 'pause_megatron/dataset/1'"),
    ],
)
def test_damaged_manifest_is_a_user_error(tmp_path, config_for, content, complaint):
    preprocess(config_for(tmp_path))
    path = tmp_path / "dataset.json"
    other_format = {**json.loads(path.read_text()), "format": "pause_megatron/dataset/0"}
    path.write_text(json.dumps(other_format) if content is None else content)
    with pytest.raises(UserError, match=complaint):
        load_dataset_manifest(tmp_path)

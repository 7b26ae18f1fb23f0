"""The Python example of docs/preprocessing.md, run as it is printed."""

import os
import re
import shutil
import subprocess
import sys

from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from tests.chain import verified
from tests.documentation import REPOSITORY, code_blocks


def test_example_preprocesses_and_verifies(tmp_path, corpus, tokenizer):
    (example,) = [block for block in code_blocks(REPOSITORY / "docs/preprocessing.md") if block.language == "python"]
    text = tmp_path / "c4" / "en"
    text.mkdir(parents=True)
    for number, path in enumerate(corpus.train):
        shutil.copy(path, text / f"c4-train.{number:05}-of-00003.json.gz")
    shutil.copytree(tokenizer.path.parent, tmp_path / "tokenizer")
    (tmp_path / "example.py").write_text(example.text)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = load_dataset_manifest(tmp_path / "data/pause")
    assert f"{manifest.sequences} sequences, " in done.stdout
    counts = re.findall(r"^\d+ sequences from \d+ on: (\d+) pauses$", done.stdout, re.MULTILINE)
    assert sum(map(int, counts)) == manifest.shards[0].pauses > 0
    assert verified(tmp_path / "data/standard").pauses == 0

import gzip
import re

import pytest

from pause_megatron.cli.commands import TOOLS
from pause_megatron.cli.main import run_command
from pause_megatron.errors import UserError
from pause_megatron.preprocess.run import preprocess

GOOD = b'{"text": "good text"}\n'


def run(tokenizer, *flags):
    arguments = ["--tokenizer", str(tokenizer.path), "--seq-length", "32", "--engine", "serial", *flags]
    return run_command(TOOLS["preprocess_c4.py"], "preprocess_c4.py", arguments)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("bad.jsonl", GOOD * 5000 + b'{"text": \n', "bad.jsonl, line 5001: not valid JSON"),
        ("bad.jsonl", GOOD * 5 + b'{"text": 7}\n', "bad.jsonl, line 6: Expected `str`, got `int`"),
        ("bad.jsonl", GOOD * 5 + b'{"url": "u"}\n', "bad.jsonl, line 6: Object missing required field `text`"),
        ("bad.jsonl", GOOD * 5 + b'{"text": "\xff"}\n', "bad.jsonl, line 6: not valid UTF-8"),
        ("bad.json.gz", gzip.compress(GOOD * 5000)[:-9], "bad.json.gz: the gzip data ends too early"),
        ("bad.json.gz", GOOD, "bad.json.gz: cannot be read: Not a gzipped file"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, tokenizer, capsys, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    assert run(tokenizer, "--input", str(tmp_path / name), "--output", str(tmp_path / "data")) == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith("error: ")
    assert complaint in last_line
    assert list((tmp_path / "data").iterdir()) == []


def test_good_shards_of_a_failed_run_are_kept(tmp_path, tokenizer):
    (tmp_path / "good.jsonl").write_bytes(GOOD * 500)
    (tmp_path / "poor.jsonl").write_bytes(b"{}\n")
    flags = ["--input", str(tmp_path / "*.jsonl"), "--output", str(tmp_path / "data")]
    assert run(tokenizer, *flags) == 2
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"good.bin", "good.idx", "good.json"}
    (tmp_path / "poor.jsonl").write_bytes(GOOD * 500)
    assert run(tokenizer, *flags) == 0
    assert (tmp_path / "data/dataset.json").is_file()


def test_empty_glob_is_a_user_error(tmp_path, tokenizer, capsys):
    assert run(tokenizer, "--input", str(tmp_path / "*.json.gz"), "--output", str(tmp_path / "data")) == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_text_that_fills_no_sequence_is_a_user_error(tmp_path, tokenizer, capsys):
    (tmp_path / "short.jsonl").write_bytes(GOOD)
    assert run(tokenizer, "--input", str(tmp_path / "short.jsonl"), "--output", str(tmp_path / "data")) == 2
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
    with pytest.raises(UserError, match="a shard is named after its file, and 'text' is taken"):
        preprocess(config_for(tmp_path / "data", input=tuple(map(str, paths))))
    (tmp_path / "dataset.jsonl").touch()
    with pytest.raises(UserError, match="'dataset' is taken"):
        preprocess(config_for(tmp_path / "data", input=(str(tmp_path / "dataset.jsonl"),)))


def test_input_folder_is_never_written_to(tmp_path, config_for):
    (tmp_path / "text.json").write_bytes(GOOD * 5000)
    with pytest.raises(UserError, match="give the dataset a folder of its own"):
        preprocess(config_for(tmp_path, input=(str(tmp_path / "text.json"),)))
    assert (tmp_path / "text.json").read_bytes() == GOOD * 5000


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"input": ()}, "--input"),
        ({"seq_length": 1}, "--seq-length 1"),
        ({"seed": -1}, "--seed -1"),
        ({"workers": -1}, "--workers -1"),
        ({"pause_rate": 1.0}, "--pause-rate 1.0"),
        ({"pause_rate": 0.0}, "for data without pauses use --pauses none"),
        ({"pause_rate": 0.01, "seq_length": 64}, "at least one pause"),
    ],
)
def test_impossible_settings_name_the_flag(tmp_path, config_for, changes, flag):
    with pytest.raises(UserError, match=flag):
        config_for(tmp_path, **changes)

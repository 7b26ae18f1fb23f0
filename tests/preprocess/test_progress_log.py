import json
import time

import pytest

from pause_megatron.errors import UserError
from pause_megatron.preprocess import progress_log
from pause_megatron.preprocess.progress_log import PROGRESS_FOLDER, RunProgress, ShardProgress
from pause_megatron.preprocess.run import preprocess


def entries_of(folder):
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]


def test_every_shard_is_logged_from_start_to_end(tmp_path, config_for, corpus):
    preprocess(config_for(tmp_path / "data", workers=2))
    entries = entries_of(tmp_path / "data" / PROGRESS_FOLDER)
    names = [path.name.removesuffix(".json.gz") for path in corpus.train]
    for name, path in zip(names, corpus.train, strict=True):
        states = [entry["state"] for entry in entries if entry["shard"] == name]
        assert states[0] == "started"
        assert states[-1] == "done"
        done = [entry for entry in entries if entry["shard"] == name][-1]
        record = json.loads((tmp_path / "data" / f"{name}.json").read_text())["shard"]
        assert done["documents"] == record["documents"]
        assert done["tokens"] == record["tokens"] - record["pauses"] + record["tail_tokens"]
        assert done["input_bytes"] == path.stat().st_size < done["read_bytes"]


def test_a_failed_shard_is_logged_with_its_error(tmp_path, config_for):
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(UserError):
        preprocess(config_for(tmp_path / "data", input=(str(tmp_path / "bad.jsonl"),), encoder="reference"))
    last = entries_of(tmp_path / "data" / PROGRESS_FOLDER)[-1]
    assert (last["state"], last["shard"]) == ("failed", "bad")
    assert "bad.jsonl, line 1" in last["error"]


def test_the_first_process_sums_up_what_all_workers_log(tmp_path):
    with ShardProgress(tmp_path, "earlier", 100) as shard:
        shard.add(documents=1000, tokens=1000, read_bytes=1000)
    run = RunProgress(tmp_path, {"a": 100, "b": 100, "c": 200})
    assert run.seconds_left(10.0) is None
    with ShardProgress(tmp_path, "a", 100) as shard:
        shard.add(documents=3, tokens=40, read_bytes=300)
    with ShardProgress(tmp_path, "of another run", 100):
        pass
    running = ShardProgress(tmp_path, "c", 200).__enter__()
    run.poll()
    assert run.summary().startswith("1 of 3 shards done, 1 running; 3 documents, 0.00 million tokens; ")
    assert run.seconds_left(10.0) == pytest.approx(30)  # 100 of 400 bytes in 10 s
    running._written = time.monotonic() - 60
    running.add(documents=1, tokens=10, read_bytes=300)  # half of what 200 bytes unpack to
    run.poll()
    assert run.entries["c"].state == "running"
    assert run.seconds_left(10.0) == pytest.approx(10)  # 200 of 400
    running.__exit__(None, None, None)
    run.poll()
    assert run.entries["c"].state == "done"


def test_an_incomplete_line_is_read_when_it_is_complete(tmp_path):
    run = RunProgress(tmp_path, {"a": 0})
    with ShardProgress(tmp_path, "a", 0):
        pass
    (path,) = tmp_path.glob("*.jsonl")
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    run.poll()
    assert run.entries["a"].state == "started"
    path.write_bytes(content)
    run.poll()
    assert run.entries["a"].state == "done"
    assert run.seconds_left(5.0) == 0


def test_a_line_is_printed_while_the_work_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress_log, "_SECONDS_BETWEEN_LINES", 0.02)
    run = RunProgress(tmp_path, {"a": 10, "b": 10})
    with progress_log.report_progress(run), ShardProgress(tmp_path, "a", 10):
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert any("0 of 2 shards done, 1 running" in line and "unknown time left" in line for line in lines)
    assert "1 of 2 shards done, 0 running" in lines[-1]
    assert "/s; 0 s left" in lines[-1]

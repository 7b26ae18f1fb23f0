"""Datasets at addresses have the bytes of local ones; an upload that dies leaves nothing that looks complete."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.output_folders import output_folder
from pause_megatron.preprocess.run import preprocess
from pause_megatron.tokenizer.make_tokenizer import train_tokenizer
from tests.chain import verified
from tests.preprocess.conftest import contents, token_hashes


class DyingStore(MemoryFileSystem):
    """Store that ends its process, as it were, in the middle of an upload: half of the file is there."""

    protocol = "dying"
    uploads_left = 10**9

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("dying://", "memory://"))

    def put_file(self, lpath, rpath, **kwargs):
        if DyingStore.uploads_left == 0:
            content = Path(lpath).read_bytes()
            self.pipe_file(rpath, content[: len(content) // 2])
            raise KeyboardInterrupt
        DyingStore.uploads_left -= 1
        super().put_file(lpath, rpath, **kwargs)


fsspec.register_implementation("dying", DyingStore, clobber=True)


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    """An empty store in memory, and a folder of this test for temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(DyingStore, "uploads_left", 10**9)
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def download(address, folder):
    """Copy a dataset to ``folder``."""
    files, path = fsspec.core.url_to_fs(address)
    folder.mkdir()
    for name in files.ls(path, detail=False):
        (folder / Path(name).name).write_bytes(files.cat_file(name))
    return folder


def upload_text(corpus):
    """Put the text into the store in memory."""
    files = fsspec.filesystem("memory")
    for path in corpus.train:
        files.pipe_file(f"/c4/{path.name}", path.read_bytes())
    return "memory://c4/*.json.gz"


def scratch_files(tmp_path):
    return [path for path in (tmp_path / "tmp").rglob("*") if path.is_file() and path.suffix != ".jsonl"]


def test_text_and_dataset_in_memory(tmp_path, corpus, config_for):
    text = upload_text(corpus)
    also = {"also": ("none:memory://standard",)}
    preprocess(config_for(Path("memory://pause/data"), input=(text,), engine="serial", **also))
    preprocess(config_for(tmp_path / "local", workers=2, also=(f"none:{tmp_path / 'standard'}",)))
    found = download("memory://pause/data", tmp_path / "found")
    assert token_hashes(found) == token_hashes(tmp_path / "local")
    assert token_hashes(download("memory://standard", tmp_path / "found2")) == token_hashes(tmp_path / "standard")
    assert [shard.input for shard in verified(found).shards] == [f"memory:///c4/{path.name}" for path in corpus.train]
    assert scratch_files(tmp_path) == []


def test_file_addresses_with_two_workers(tmp_path, corpus, config_for):
    folder = corpus.train[0].parent
    preprocess(config_for(Path(f"file://{tmp_path}/remote"), input=(f"file://{folder}/*train*.json.gz",), workers=2))
    preprocess(config_for(tmp_path / "local", workers=2))
    assert token_hashes(tmp_path / "remote") == token_hashes(tmp_path / "local")
    assert verified(tmp_path / "remote").sequences


def test_only_missing_shards_are_written(tmp_path, config_for, capsys):
    output = Path("memory://data")
    preprocess(config_for(output, shard_range="1:2"))
    assert "3 shards: 1 to do in this run, 2 complete or left" in capsys.readouterr().err
    preprocess(config_for(output))
    assert "3 shards: 2 to do in this run, 1 complete" in capsys.readouterr().err
    preprocess(config_for(output))
    assert "3 shards: 0 to do in this run, 3 complete" in capsys.readouterr().err
    preprocess(config_for(tmp_path / "local"))
    assert contents(download("memory://data", tmp_path / "found")) == contents(tmp_path / "local")


def test_a_run_that_dies_in_any_upload_is_resumed_to_the_same_bytes(tmp_path, config_for):
    """Three shards of three files, and dataset.json: ten uploads."""
    preprocess(config_for(tmp_path / "local"))
    output, deaths = Path("dying://data"), 0
    for uploads in range(10):
        fsspec.filesystem("memory").rm("/", recursive=True) if fsspec.filesystem("memory").ls("/") else None
        DyingStore.uploads_left = uploads
        with pytest.raises(KeyboardInterrupt):
            preprocess(config_for(output))
        deaths += 1
        complete = output_folder(output).read_records()
        assert len(complete) == uploads // 3
        for name, record in complete.items():
            assert record.shard.bin_bytes == len(MemoryFileSystem.store[f"/data/{name}.bin"].getvalue())
        DyingStore.uploads_left = 10**9
        preprocess(config_for(output))
        assert contents(download("dying://data", tmp_path / f"found-{uploads}")) == contents(tmp_path / "local")
        assert scratch_files(tmp_path) == []
    assert deaths == 10


def test_temporary_files_of_a_killed_process_are_removed(tmp_path, config_for):
    folder = output_folder(Path("memory://data"))
    shard = "pydoc-train.00000-of-00003"
    left = folder.progress.parent / f".{shard}.bin.0123abcd.tmp"
    left.mkdir(parents=True)
    (left / f"{shard}.bin").write_bytes(b"half")
    preprocess(config_for(Path("memory://data"), engine="serial"))
    assert not left.exists()


def test_other_settings_and_lost_files_are_refused(config_for):
    output = Path("memory://data")
    preprocess(config_for(output))
    with pytest.raises(UserError, match=r"^memory:///data/\S+\.json: was written with seed=1234, but this run uses"):
        preprocess(config_for(output, seed=5))
    store = fsspec.filesystem("memory")
    (name, *_) = [name for name in store.ls("/data", detail=False) if name.endswith(".bin")]
    content = store.cat_file(name)
    store.pipe_file(name, content[:-2])
    with pytest.raises(UserError, match=rf"^memory://{name}: has {len(content) - 2} bytes instead of the "):
        preprocess(config_for(output))
    store.rm_file(name)
    with pytest.raises(UserError, match=rf"^memory://{name}: missing; remove "):
        preprocess(config_for(output))


def test_merged_dataset_is_refused(config_for):
    fsspec.filesystem("memory").pipe_file("/data/dataset.json", json.dumps({"merged": [{"name": "a"}]}).encode())
    with pytest.raises(UserError, match=r"^memory:///data: is a merged dataset, to which nothing can be added"):
        preprocess(config_for(Path("memory://data")))


def test_folder_of_the_text_is_refused(corpus, config_for):
    text = upload_text(corpus)
    with pytest.raises(UserError, match=r"^--output memory:///c4: contains the input files"):
        preprocess(config_for(Path("memory://c4"), input=(text,)))


def test_one_address_for_two_datasets_is_refused(config_for):
    with pytest.raises(UserError, match="--also: memory://data is given for two datasets"):
        config_for(Path("memory://data"), also=("none:memory://data",))


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("nope://bucket/data", r"^nope://bucket/data: cannot be opened \(ValueError: Protocol not known: nope"),
        ("gs://bucket/data", r"^gs://bucket/data: its driver is missing \(.*gcsfs.*\); install it with pip$"),
        ("file:///proc/nowhere/data", r"^file:///proc/nowhere/data/\S+: (cannot be written|no such file)"),
    ],
)
def test_unusable_address_is_one_line(address, complaint, config_for):
    if address.startswith("gs"):
        try:
            import gcsfs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("gcsfs is installed; the error for a missing driver was not checked")
    with pytest.raises(UserError, match=complaint) as caught:
        preprocess(config_for(Path(address), engine="serial"))
    assert "\n" not in str(caught.value)


def test_tokenizer_is_trained_on_remote_text(tmp_path, corpus, tokenizer):
    text = upload_text(corpus)
    train_tokenizer(TokenizerConfig(input=(text,), output=tmp_path / "tokenizer", vocab_size=1024))
    assert (tmp_path / "tokenizer/tokenizer.model").read_bytes() == tokenizer.path.read_bytes()


def test_scratch_folder_of_another_user_is_refused(tmp_path, config_for, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tmp" / f"pause-megatron-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="belongs to another user; set TMPDIR"):
        preprocess(config_for(Path("memory://data"), engine="serial"))

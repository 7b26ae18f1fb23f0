import gzip
import json
import pickle
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pause_megatron.corpus import find_sources
from pause_megatron.errors import UserError
from tests.corpus.reading import read, skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset of two splits, the first in three files."""
    folder = tmp_path_factory.mktemp("hub") / "my corpus"
    folder.mkdir()
    for name in ("train-0", "train-1", "train-2", "test-0"):
        lines = [json.dumps({"n": i, "text": f"{name}: document {i}"}) + "\n" for i in range(10)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def texts(name):
    return [f"{name}: document {i}" for i in range(10)]


def test_each_shard_of_a_streamed_dataset_is_a_source(folder):
    sources = find_sources([f"hf:{folder}"])
    assert [source.name for source in sources] == [f"my-corpus-default-train-0000{i}-of-00003" for i in range(3)]
    assert [source.location for source in sources] == [f"hf:{folder}:default:train#0000{i}-of-00003" for i in range(3)]
    assert [read(source).texts for source in sources] == [texts(f"train-{i}") for i in range(3)]
    assert find_sources([f"hf:{folder}:default", f"hf:{folder}::train", f"hf:{folder}:default:train"]) == sources
    assert pickle.loads(pickle.dumps(sources)) == sources


def test_splits_differ(folder):
    assert [read(source).texts for source in find_sources([f"hf:{folder}:default:test"])] == [texts("test-0")]
    assert len(find_sources([f"hf:{folder}", f"hf:{folder}::test"])) == 4


def test_parquet_and_compressed_files_are_streamed(tmp_path):
    pq.write_table(pa.table({"text": ["a", None, "b"]}), tmp_path / "train.parquet")
    (source,) = find_sources([f"hf:{tmp_path}"])
    assert skip(source) == (["a", "b"], [(2, "no text (null)")], 2)
    with pytest.raises(UserError, match=r"hf:.*:default:train#00000-of-00001, row 2: no text \(null\)"):
        read(source)
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 5))
    (source,) = find_sources([f"hf:{tmp_path}"])
    assert read(source).texts == ["a"] * 5


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(b'{"text": "a"}\n' * 500)[:-20], b"plain", gzip.compress(b'{"text": ')],
    ids=["cut", "plain", "cut JSON"],
)
def test_damaged_file_stops_or_is_reported(tmp_path, packed):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 5))
    _, source = find_sources([f"hf:{tmp_path}"])
    (tmp_path / "b.jsonl.gz").write_bytes(packed)
    with pytest.raises(UserError, match=r"hf:.*#00001-of-00002: the data is damaged \(.*\); nothing of it can be read"):
        read(source)
    ((line, reason),) = skip(source).errors
    assert (line, "\n" in reason) == (0, False)


@pytest.mark.parametrize(
    ("suffix", "complaint"),
    [
        (":other", r"'other', split='train', streaming=True\) failed: ValueError: .*Available: \['default'\]"),
        ("::other", r"None, split='other', streaming=True\) failed: ValueError: .*Available splits: \['t.*'\]"),
        ("/nothing", r"failed: FileNotFoundError: Couldn't find any data file"),
        (":a:b:c", r"expected hf:NAME\[:CONFIG\[:SPLIT\]\]"),
    ],
)
def test_error_shows_the_failed_call(folder, suffix, complaint):
    with pytest.raises(UserError, match=complaint) as refused:
        find_sources([f"hf:{folder}{suffix}"])
    assert str(refused.value).startswith(f"--input hf:{folder}{suffix.partition(':')[0]}")
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="expected hf:NAME"):
        find_sources(["hf:"])


def test_error_lists_the_columns(folder):
    source, *_ = find_sources([f"hf:{folder}"])
    with pytest.raises(UserError, match=r'#00000-of-00003: no column "body"; set --text-key to one of: n, text'):
        skip(source, text_key="body")
    with pytest.raises(UserError, match="row 1: not text but int64"):
        read(source, text_key="n")


def test_changed_number_of_shards_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a"}\n')
    source, _ = find_sources([f"hf:{tmp_path}"])
    (tmp_path / "b.jsonl").unlink()
    assert len(find_sources([f"hf:{tmp_path}"])) == 1
    with pytest.raises(UserError, match="the dataset now has 1 shards; start again"):
        read(source)


def test_dataset_of_the_hub_without_a_network_is_a_user_error():
    program = (
        "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n"
        "from pause_megatron.corpus import find_sources; from pause_megatron.errors import UserError\n"
        "try:\n    find_sources(['hf:allenai/c4:en'])\n"
        "except UserError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    tried = "datasets.load_dataset('allenai/c4', 'en', split='train', streaming=True)"
    assert done.stdout.startswith(f"--input hf:allenai/c4: {tried} failed: "), done.stderr
    assert done.stdout.count("\n") == 1


def test_streaming_does_not_import_torch(folder):
    program = (
        "import sys; from pause_megatron.corpus import find_sources; from tests.corpus.reading import read\n"
        "print(sum(len(read(source).texts) for source in find_sources(sys.argv[1:])))\n"
        "print('datasets' in sys.modules, {'torch', 'transformers'} & set(sys.modules))\n"
        "import datasets; print(datasets.config.TORCH_AVAILABLE)"
    )
    done = subprocess.run([sys.executable, "-c", program, f"hf:{folder}"], capture_output=True, text=True, check=False)
    assert done.stdout == "30\nTrue set()\nTrue\n", done.stderr

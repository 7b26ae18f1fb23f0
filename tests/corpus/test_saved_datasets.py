import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from pause_megatron.corpus import find_sources
from pause_megatron.errors import UserError
from tests.corpus.reading import read, skip

TEXTS = [f"document {i}" for i in range(100)]


def save(folder, dataset, **settings):
    dataset.save_to_disk(folder, **settings)
    return folder


def test_each_data_file_of_a_saved_dataset_is_a_source(tmp_path):
    folder = save(tmp_path / "corpus", Dataset.from_dict({"n": range(100), "text": TEXTS}), num_shards=3)
    sources = find_sources([str(folder)])
    assert [source.name for source in sources] == [f"corpus-data-0000{i}-of-00003" for i in range(3)]
    assert [source.location for source in sources] == [str(folder / f"data-0000{i}-of-00003.arrow") for i in range(3)]
    assert all(source.size_bytes > 1000 for source in sources)
    assert [text for source in sources for text in read(source).texts] == TEXTS
    assert find_sources([str(tmp_path / "*"), str(folder)]) == sources


def test_shuffled_and_selected_rows_are_the_saved_ones(tmp_path):
    dataset = Dataset.from_dict({"text": TEXTS}).shuffle(seed=1).select(range(50))
    assert read(save(tmp_path / "corpus", dataset)).texts == dataset["text"][:]


def test_error_shows_the_bad_row(tmp_path):
    folder = save(tmp_path / "corpus", Dataset.from_dict({"text": ["a", None, ""]}))
    with pytest.raises(UserError, match=r"data-00000-of-00001\.arrow, row 2: no text \(null\); expected a string"):
        read(folder)
    assert skip(folder) == (["a", ""], [(2, "no text (null)")], 1)
    with pytest.raises(UserError, match=r'no column "body"; set --text-key to one of: text'):
        skip(folder, text_key="body")


def test_every_truncated_data_file_is_reported(tmp_path):
    folder = save(tmp_path / "corpus", Dataset.from_dict({"text": TEXTS}))
    (path,) = folder.glob("*.arrow")
    whole = path.read_bytes()
    for end in range(0, len(whole), 8):
        path.write_bytes(whole[:end])
        got = skip(folder)
        assert got.texts in ([], TEXTS)
        ((line, reason),) = got.errors
        assert line == 0
        assert "the data is damaged" in reason


@pytest.mark.parametrize(
    ("dataset", "complaint"),
    [
        (
            DatasetDict(train=Dataset.from_dict({"text": ["a"]}), test=Dataset.from_dict({"text": ["b"]})),
            "contains the ",
        ),
        (Dataset.from_dict({"text": []}), "the dataset is empty; leave it out"),
    ],
)
def test_folder_without_one_dataset_is_refused(tmp_path, dataset, complaint):
    with pytest.raises(UserError, match=f"corpus: {complaint}") as refused:
        find_sources([str(save(tmp_path / "corpus", dataset))])
    if isinstance(dataset, DatasetDict):
        assert str(refused.value).endswith(f"contains the splits train, test; give one, e.g. {tmp_path}/corpus/train")
        assert read(tmp_path / "corpus" / "test").texts == ["b"]


def test_error_shows_the_missing_data_file(tmp_path):
    folder = save(tmp_path / "corpus", Dataset.from_dict({"text": TEXTS}), num_shards=2)
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"data-00001-of-00002\.arrow is missing, but listed in state\.json"):
        find_sources([str(folder)])


def test_reading_files_imports_neither_datasets_nor_torch(tmp_path):
    save(tmp_path / "corpus", Dataset.from_dict({"text": TEXTS}))
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    Dataset.from_dict({"text": TEXTS}).to_parquet(tmp_path / "b.parquet")
    program = (
        "import sys; from tests.corpus.reading import read; from pathlib import Path\n"
        "print(*(len(read(Path(path)).texts) for path in sys.argv[1:]))\n"
        "print({'datasets', 'torch', 'transformers'} & set(sys.modules))"
    )
    paths = [tmp_path / name for name in ("a.jsonl", "b.parquet", "corpus")]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=False)
    assert done.stdout == "1 100 100\nset()\n", done.stderr


def test_texts_outside_the_data_are_damage(tmp_path):
    folder = save(tmp_path / "corpus", Dataset.from_dict({"text": TEXTS}))
    (path,) = folder.glob("*.arrow")
    content = path.read_bytes()
    ends = np.cumsum([0, *map(len, TEXTS)]).astype("<i4")
    start = content.index(ends.tobytes())
    for place, wrong in ((50, 2**30), (50, -5), (0, -(2**31)), (100, 2**31 - 1), (50, 2**31 - 1)):
        damaged = ends.copy()
        damaged[place] = wrong
        path.unlink()  # it may still be mapped
        path.write_bytes(content[:start] + damaged.tobytes() + content[start + damaged.nbytes :])
        got = skip(folder)
        assert got.texts == []
        assert "the data is damaged (" in got.errors[0][1]

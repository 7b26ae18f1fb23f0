"""``--deepspeed`` takes the path of a file or the name of one that this project ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from pause_megatron.config.deepspeed import read_deepspeed_file
from pause_megatron.errors import UserError
from pause_megatron.shipped_files import shipped_deepspeed_names

FOLDER = Path(__file__).parents[2] / "ds_configs"


@pytest.mark.parametrize("form", ["{}", "{}.json", "ds_configs/{}.json"])
@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.json")))
def test_shipped_file_is_found_by_name_in_any_directory(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = read_deepspeed_file(Path(form.format(name)))
    assert found.values == read_deepspeed_file(FOLDER / f"{name}.json").values
    assert name in shipped_deepspeed_names()


def test_file_of_the_user_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("zero1_bf16").write_text('{"zero_optimization": {"stage": 0}}', encoding="utf-8")
    assert read_deepspeed_file(Path("zero1_bf16")).zero_stage == 0


@pytest.mark.parametrize(
    ("path", "fix"),
    [
        ("zero1_bf61", "did you mean 'zero1_bf16'?"),
        ("elsewhere/zero1_bf16.json", "did you mean 'zero1_bf16'?"),
        ("/zero1_fp32", "did you mean 'zero1_fp32'?"),
        ("mine", "choose from zero0_bf16, "),
    ],
)
def test_unknown_file_is_refused_with_the_names(
    path: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        read_deepspeed_file(Path(path))
    assert str(refused.value).startswith(f"--deepspeed {path}: no such file, and no shipped one; {fix}")

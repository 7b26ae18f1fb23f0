"""A killed conversion leaves nothing under its final name, and the same command afterwards leaves no remains."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pause_megatron import atomic
from pause_megatron.config.conversion import ConvertFromHfConfig, ConvertToHfConfig
from pause_megatron.conversion import from_hf, to_hf
from pause_megatron.conversion.from_hf import convert_from_hf
from pause_megatron.conversion.to_hf import convert_to_hf
from tests.distributed import run_distributed


@pytest.fixture(scope="module")
def commands(foreign: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable]:
    """Both conversions to a given folder, by name."""
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "start"
    run_distributed(convert_from_hf, 1, ConvertFromHfConfig(model=foreign("llama"), output=checkpoint))
    return {
        "convert_from_hf": lambda output: (convert_from_hf, ConvertFromHfConfig(model=foreign("llama"), output=output)),
        "convert_to_hf": lambda output: (convert_to_hf, ConvertToHfConfig(checkpoint=checkpoint, output=output)),
    }


def kill_at(place: str, command: Callable, config: object) -> None:
    """Run ``command`` in this process, which gets SIGKILL at ``place``: at the first file, the check or the rename."""

    def kill(*arguments: object, **settings: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if place == "first file":
        atomic.rename_into_place = kill
    elif place == "check":
        from_hf.prove_export = to_hf.prove_export = kill  # type: ignore[assignment]
    else:
        rename = atomic.rename_into_place

        def kill_at_the_end(temporary: Path, path: Path, **settings: bool) -> None:
            if path == config.output:  # type: ignore[attr-defined]
                kill()
            rename(temporary, path, **settings)

        atomic.rename_into_place = kill_at_the_end
    command(config)


@pytest.mark.parametrize("place", ["first file", "check", "rename"])
@pytest.mark.parametrize("name", ["convert_from_hf", "convert_to_hf"])
def test_killed_conversions_leave_no_remains(
    commands: dict[str, Callable], name: str, place: str, tmp_path: Path
) -> None:
    command, config = commands[name](tmp_path / "out")
    with pytest.raises(AssertionError, match="rank 0 died"):
        run_distributed(kill_at, 1, place, command, config)
    [remains] = tmp_path.iterdir()
    assert remains.name.startswith(".out.")
    run_distributed(command, 1, config)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not list((tmp_path / "out").rglob("*.tmp"))

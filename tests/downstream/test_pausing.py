"""Settings of pauses that the user leaves out come from finetuning, in every command and in the Python API."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import GPT2LMHeadModel

from pause_megatron.cli.main import main
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing, InferencePausing
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.generation import generate_texts
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import decided_finetuning, finetuning_pausing, resolve_pausing
from pause_megatron.errors import EXIT_DONE, EXIT_USER, UserError
from pause_megatron.records.finetuning import FinetuneRecord
from tests.records.examples import example

PROMPT = "0110:"
PLACEMENTS = {
    "append": FinetunePausing(num_pauses_ft=3),
    "prepend": FinetunePausing(num_pauses_ft=3, pause_placement="prepend"),
    "before-marker": FinetunePausing(num_pauses_ft=3, pause_placement="before-marker", pause_marker=":"),
    "before-marker, causal": FinetunePausing(
        num_pauses_ft=3, pause_placement="before-marker", pause_marker=":", prefix_attention="causal"
    ),
    "after-marker": FinetunePausing(num_pauses_ft=3, pause_placement="after-marker", pause_marker="1"),
    "every": FinetunePausing(num_pauses_ft=3, pause_placement="every"),
    "filler": FinetunePausing(num_pauses_ft=3, filler="a :"),
    "repeat": FinetunePausing(num_pauses_ft=3, pause_inputs="repeat"),
    "repeat, every": FinetunePausing(num_pauses_ft=3, pause_placement="every", pause_inputs="repeat"),
    "every second": FinetunePausing(num_pauses_ft=3, pause_placement="every", pause_interval=2),
}


@dataclass(frozen=True)
class ForwardPass:
    """Inputs of one forward pass of a single row."""

    ids: list[int]
    mask: torch.Tensor | None

    def prefix(self, length: int) -> tuple[list[int], bool]:
        """The first ``length`` ids, and whether the first of them attends to the last."""
        is_full = self.mask is not None and self.mask.dim() == 4
        both_ways = is_full and bool(self.mask[0, 0, 0, length - 1] == 0)
        return self.ids[:length], both_ways


@pytest.fixture
def passes(monkeypatch) -> list[ForwardPass]:
    """Collects the inputs of all forward passes."""
    found: list[ForwardPass] = []
    forward = GPT2LMHeadModel.forward

    def recording(self, input_ids=None, **inputs):
        found.append(ForwardPass(input_ids[0].tolist(), inputs.get("attention_mask")))
        return forward(self, input_ids=input_ids, **inputs)

    monkeypatch.setattr(GPT2LMHeadModel, "forward", recording)
    for trial in ("bidirectional_problem", "sharing_problem", "branching_problem"):  # their own passes are no readings
        monkeypatch.setattr(f"pause_megatron.downstream.model_folder.{trial}", lambda *_: None)
    return found


@pytest.fixture
def data(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"question": PROMPT, "answer": "0"}) + "\n")
    return tmp_path


def first_prefix(passes: list[ForwardPass], length: int) -> tuple[list[int], bool]:
    found = passes[0].prefix(length)
    passes.clear()
    return found


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_model_pauses_everywhere_as_it_was_finetuned(name, model_path, data, passes, capsys):
    pausing = PLACEMENTS[name]
    tuned, settings = data / "tuned", {"steps": 1, "batch_size": 1, "warmup_steps": 0}
    finetune(
        FinetuneConfig(model=model_path("gpt2"), task="parity", data=data, output=tuned, pausing=pausing, **settings)
    )
    tuned_folder = load_model_folder(tuned)
    pauses, encode = [tuned_folder.pause_id] * 3, tuned_folder.tokenizer.encode
    if pausing.filler:
        filler = encode("a :")
        assert len(filler) > 1
        pauses = (filler * 3)[:3]
    if pausing.pause_inputs == "repeat":
        pauses = encode(":") * 3
    run = [] if pausing.pause_inputs == "repeat" else pauses  # after any token
    ids = {
        "append": [*encode(PROMPT), *pauses],
        "prepend": [*pauses, *encode(PROMPT)],
        "before-marker": [*encode("0110"), *pauses, *encode(":")],
        "after-marker": [*encode("01"), *pauses, *encode("1"), *pauses, *encode("0:")],
        "every": [
            each
            for number, token in enumerate(encode(PROMPT), start=1)
            for each in ([token, *(run or [token] * 3)] if number % (pausing.pause_interval or 1) == 0 else [token])
        ],
    }[pausing.pause_placement or "append"]
    expected = ids, pausing.prefix_attention != "causal" and pausing.pause_placement != "every"
    assert first_prefix(passes, len(ids)) == expected

    assert main(["generate", "--model", str(tuned), "--prompt", PROMPT, "--max-new-tokens", "2"]) == EXIT_DONE
    assert first_prefix(passes, len(ids)) == expected
    generate_texts(tuned_folder, [PROMPT], max_new_tokens=2)
    assert first_prefix(passes, len(ids)) == expected
    where = ["--data", str(data), "--output", str(data / "result.json")]
    assert main(["evaluate", "--model", str(tuned), "--task", "parity", *where]) == EXIT_DONE
    assert first_prefix(passes, len(ids)) == expected


MARKED = replace(
    example(FinetuneRecord),
    num_pauses_ft=7,
    pause_placement="before-marker",
    pause_marker="Answer:",
    filler=None,
    pause_inputs=None,
    prefix_attention="bidirectional",
)
EACH_MARKED = replace(MARKED, pause_placement="after-marker")
APPENDED = replace(MARKED, pause_placement="append", pause_marker=None)


@pytest.mark.parametrize(
    ("finetuning", "asked", "expected"),
    [
        (None, {}, ("append", None, 0, "causal")),
        (None, {"num_pauses_inf": 4}, ("append", None, 4, "causal")),
        (MARKED, {}, ("before-marker", "Answer:", 7, "bidirectional")),
        (MARKED, {"num_pauses_inf": 0}, ("before-marker", "Answer:", 0, "bidirectional")),
        (MARKED, {"prefix_attention": "causal"}, ("before-marker", "Answer:", 7, "causal")),
        (MARKED, {"pause_marker": "A:"}, ("before-marker", "A:", 7, "bidirectional")),
        (MARKED, {"pause_placement": "before-marker"}, ("before-marker", "Answer:", 7, "bidirectional")),
        (MARKED, {"pause_placement": "prepend"}, ("prepend", None, 7, "bidirectional")),
        (
            APPENDED,
            {"pause_placement": "before-marker", "pause_marker": "A:"},
            ("before-marker", "A:", 7, "bidirectional"),
        ),
        (EACH_MARKED, {}, ("after-marker", "Answer:", 7, "bidirectional")),
        (EACH_MARKED, {"pause_marker": "A:"}, ("after-marker", "A:", 7, "bidirectional")),
        (
            MARKED,
            {"pause_placement": "after-marker", "num_pauses_inf": 2},
            ("after-marker", "Answer:", 2, "bidirectional"),
        ),
    ],
)
def test_settings_left_out_come_from_finetuning(model_path, finetuning, asked, expected):
    folder = replace(load_model_folder(model_path("gpt2")), finetuning=finetuning)
    found = resolve_pausing(folder, InferencePausing(**asked))
    assert (found.placement, found.marker, found.num_pauses, found.prefix_attention) == expected
    assert (found.filler, found.filler_ids, found.repeats_tokens) == (None, None, False)


@pytest.mark.parametrize(
    ("finetuning", "asked", "message"),
    [
        (None, {"pause_placement": "before-marker"}, "was not finetuned with a marker; give --pause-marker"),
        (APPENDED, {"pause_placement": "before-marker"}, "was not finetuned with a marker; give --pause-marker"),
        (APPENDED, {"pause_marker": "A:"}, "--pause-marker 'A:': .* has the placement append; give"),
        (
            MARKED,
            {"pause_placement": "after-marker"},
            "was trained with 7 pauses for the placement before-marker; give",
        ),
        (EACH_MARKED, {"pause_placement": "append"}, "with 7 pauses for the placement after-marker; give"),
        (MARKED, {"pause_inputs": "repeat"}, "--pause-inputs repeat: there may be no token before the pauses of"),
        (
            replace(APPENDED, pause_inputs="repeat"),
            {"pause_placement": "prepend"},
            "--pause-inputs repeat: there may be no token before the pauses of --pause-placement prepend; give",
        ),
        (None, {"num_pauses_inf": (0, 1)}, "--num-pauses-inf 0 1: only 'evaluate' takes several numbers; give one"),
    ],
)
def test_settings_that_contradict_finetuning_are_refused(model_path, finetuning, asked, message):
    folder = replace(load_model_folder(model_path("gpt2")), finetuning=finetuning)
    with pytest.raises(UserError, match=message):
        resolve_pausing(folder, InferencePausing(**asked))


def test_pauses_need_a_model_with_a_pause_token_and_fillers_do_not(model_path):
    folder = replace(load_model_folder(model_path("gpt2")), pause_id=None)
    assert resolve_pausing(folder, InferencePausing()).num_pauses == 0
    with pytest.raises(UserError, match=r"--num-pauses-inf 2: .* has no <pause> token"):
        resolve_pausing(folder, InferencePausing(num_pauses_inf=2))
    with pytest.raises(UserError, match=r"--num-pauses-ft 10: .* has no <pause> token"):
        finetuning_pausing(folder, decided_finetuning(folder, FinetunePausing()))
    assert resolve_pausing(folder, InferencePausing(num_pauses_inf=2, filler=".")).num_pauses == 2


def test_a_filler_replaces_pauses(folder):
    def prefix(filler: str) -> list[int]:
        asked = InferencePausing(num_pauses_inf=2, filler=filler)
        return resolve_pausing(folder, asked).prefix(folder, "x", [17], room=8).tolist()

    [dot] = folder.tokenizer.encode(".")
    assert prefix(".") == [17, dot, dot]
    assert prefix("17") == [17, 17, 17]
    assert prefix("several words here") == [17, *folder.tokenizer.encode("several words here")[:2]]


def test_generate_takes_a_filler(model_path, passes, capsys):
    folder = load_model_folder(model_path("gpt2"))
    [dot] = folder.tokenizer.encode(".")
    flags = ["--prompt", PROMPT, "--num-pauses-inf", "3", "--filler", ".", "--max-new-tokens", "2"]
    assert main(["generate", "--model", str(folder.path), *flags]) == EXIT_DONE
    ids = [*folder.tokenizer.encode(PROMPT), dot, dot, dot]
    assert first_prefix(passes, len(ids)) == (ids, False)


def test_generate_refuses_several_numbers_before_it_loads_a_model(capsys):
    assert main(["generate", "--model", "absent", "--prompt", "x", "--num-pauses-inf", "0", "10"]) == EXIT_USER
    assert "--num-pauses-inf 0 10: only 'evaluate' takes several numbers" in capsys.readouterr().err


def test_pause_written_in_a_prompt_stays_text(folder):
    ids = folder.tokenizer.encode("a <pause> b")
    prefix = Pausing(num_pauses=2).prefix(folder, "a <pause> b", ids, room=64).tolist()
    assert prefix.count(folder.pause_id) == 2
    assert prefix[-2:] == [folder.pause_id] * 2
    assert folder.tokenizer.decode(prefix, skip_special_tokens=True) == "a <pause> b"

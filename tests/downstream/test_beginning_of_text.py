"""The beginning-of-text token of models whose tokenizer puts one before a text: once, in front of everything."""

from pydoc_data.topics import topics

import pytest
from lm_eval.models.huggingface import HFLM

from pause_megatron.config.downstream import EvaluateConfig
from pause_megatron.config.pausing import InferencePausing
from pause_megatron.downstream.evaluate import evaluate
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.generation import generate_texts
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import resolve_pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.downstream.training_examples import encode_example
from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.files import read_record
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.baking import bake_pauses
from pause_megatron.tokenizer.huggingface import ids_before_text, save_tokenizer, to_huggingface
from pause_megatron.tokenizer.make_tokenizer import add_pause
from tests.downstream.random_models import CONTEXT_LENGTH, random_model
from tests.downstream.settings import one_step
from tests.downstream.test_harness_model import LONG, generated, scored
from tests.tokenizer.foreign import make_foreign

BEGIN = 1
PAIRS = [("The import statement", " binds a name"), ("x", " y z"), ("ends in a space ", "here"), ("", "an object")]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A random model with a tokenizer like Llama 2's."""
    path = tmp_path_factory.mktemp("begun")
    add_pause(make_foreign(path / "foreign", "llama2", list(topics.values())[:30]), path / "tokenizer")
    tokenizer = PauseTokenizer.load(path / "tokenizer")
    model = random_model("llama", tokenizer.vocab_size)
    model.generation_config.eos_token_id = tokenizer.eod_id
    model.save_pretrained(path)
    save_tokenizer(to_huggingface(tokenizer), path)
    return load_model_folder(path)


def test_it_is_reported(begun, capsys):
    assert load_model_folder(begun.path).bos_ids == (BEGIN,)
    assert "every prompt begins with <s>" in capsys.readouterr().err


def test_scores_and_texts_equal_those_of_hf_with_its_defaults(begun):
    hf = HFLM(begun.model, backend="causal", tokenizer=begun.tokenizer, batch_size=3, max_length=CONTEXT_LENGTH)
    ours = PauseLM(begun, Pausing(num_pauses=0), batch_size=3)
    assert ours.tok_encode("x") == hf.tok_encode("x") == [BEGIN, *begun.encode("x", begins=False)]
    without = HFLM(
        begun.model, backend="causal", tokenizer=begun.tokenizer, max_length=CONTEXT_LENGTH, add_bos_token=False
    )
    found = zip(PAIRS, *(scored(model, PAIRS) for model in (ours, hf, without)), strict=True)
    for (context, _), (score, greedy), (expected, expected_greedy), (other, _) in found:
        assert score == pytest.approx(expected, abs=1e-4)
        assert greedy == expected_greedy
        assert not context or abs(expected - other) > 1e-3
    contexts = [context for context, _ in PAIRS if context]
    assert generated(ours, contexts) == generated(hf, contexts)


def test_texts_equal_those_of_stock_generate(begun):
    ids = begun.tokenizer("The import", return_tensors="pt")
    output = begun.model.generate(**ids, max_new_tokens=6, do_sample=False, suppress_tokens=[begun.pause_id])
    expected = begun.tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    settings = {"pausing": InferencePausing(num_pauses_inf=0), "max_new_tokens": 6}
    assert generate_texts(begun, ["The import"], **settings) == [expected]


@pytest.mark.parametrize("context", ["a class: is a", "", "<s>a class: is", f": {LONG}:"])
@pytest.mark.parametrize("placement", ["append", "prepend", "before-marker", "after-marker"])
def test_it_comes_once_and_before_the_pauses(begun, context, placement):
    marker = ":" if "marker" in placement else None
    if marker and marker not in context:
        context += marker
    pausing = Pausing(num_pauses=3, placement=placement, marker=marker)
    example = encode_example(TextPair(context, " thing"), begun, pausing)
    ids = example.input_ids.tolist()
    assert ids[0] == BEGIN
    assert ids.count(BEGIN) == 1
    runs = context[1:].count(":") if placement == "after-marker" and context != ":" else 1
    assert ids.count(begun.pause_id) == 3 * runs
    assert len(ids) <= CONTEXT_LENGTH
    if placement == "prepend":
        assert ids[1:4] == [begun.pause_id] * 3
    prefix = pausing.prefix(begun, context, begun.encode(context), CONTEXT_LENGTH - len(example.target))
    assert example.prefix.tolist() == prefix.tolist()
    if context != f": {LONG}:":
        assert begun.tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == f"{context}thing".replace(
            " ", ""
        )


def test_a_filler_has_none(begun):
    [the] = begun.encode("the", begins=False)
    assert begun.encode("the") == [BEGIN, the]
    assert resolve_pausing(begun, InferencePausing(num_pauses_inf=2, filler="the")).filler_ids == (the,)


def test_a_finetuned_model_has_it_too(begun, parity_data, tmp_path):
    """The rule is that of the folder's tokenizer, which finetuning copies; ``finetune.json`` needs no entry."""
    config = one_step(begun.path, parity_data, tmp_path / "finetuned")
    finetune(config)
    finetuned = load_model_folder(config.output)
    assert finetuned.bos_ids == (BEGIN,)
    assert finetuned.encode("a class") == begun.encode("a class")
    baked = bake_pauses(finetuned.tokenizer, 2)
    assert ids_before_text(baked) == (BEGIN,)


def test_results_record_it(begun, parity_data, tmp_path):
    output = tmp_path / "result.json"
    config = EvaluateConfig(model=begun.path, task="parity", data=parity_data, output=output, limit=2)
    evaluate(config)
    record = read_record(output, EvaluationRecord)
    assert record.bos_ids == (BEGIN,)
    lengths = [len(begun.tokenizer.encode(sample.prompt)) for sample in record.samples]
    assert record.prompt_tokens == pytest.approx(sum(lengths) / 2)

"""Change of answers with the number of pauses."""

from collections import Counter
from collections.abc import Sequence

import torch

from pause_megatron.downstream.diagnosis.probes import probes, with_number
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.downstream.training_examples import encode_example
from pause_megatron.records.diagnosis import AnswersRecord


@torch.no_grad()
def measure_answers(
    folder: ModelFolder, pairs: Sequence[TextPair], pausing: Pausing, numbers: Sequence[int], batch_size: int
) -> tuple[AnswersRecord, ...]:
    """Score the correct answer of every prompt with each of ``numbers``, in ascending order.

    Each token of the answer is predicted after the correct tokens before it.
    """
    first_tokens = {pausing.num_pauses: _score(folder, pairs, pausing, batch_size)}
    for number in numbers:
        if number not in first_tokens:
            first_tokens[number] = _score(folder, pairs, with_number(pausing, number), batch_size)
    reference = first_tokens[pausing.num_pauses][2]
    found = []
    for number, (correct, log_probability, first) in sorted(first_tokens.items()):
        [(top, count)] = Counter(first.tolist()).most_common(1)
        found.append(
            AnswersRecord(
                num_pauses=number,
                correct=float(correct.double().mean()),
                log_probability=float(log_probability.mean()),
                same_first_token=float((first == reference).double().mean()),
                top_token=folder.tokenizer.decode([top]),
                top_share=count / len(first),
            )
        )
    return tuple(found)


def best_constant(folder: ModelFolder, pairs: Sequence[TextPair], pausing: Pausing) -> float:
    """Return the share of ``pairs`` whose target begins with the most frequent first token of all targets."""
    first = Counter(int(encode_example(pair, folder, pausing).target.ids[0]) for pair in pairs)
    [(_, count)] = first.most_common(1)
    return count / len(pairs)


def _score(
    folder: ModelFolder, pairs: Sequence[TextPair], pausing: Pausing, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return for each prompt: whether its answer is likeliest, its log-probability, its likeliest first token; [N]."""
    correct, scores, first = [], [], []
    for probe in probes(folder, pairs, pausing, batch_size):
        logits = folder.model(**probe.model_inputs(folder.model.dtype)).logits[:, :-1].float()  # [batch, target, V]
        real = probe.batch.real[:, probe.batch.border :]
        top = logits.argmax(dim=-1)
        of_target = logits.log_softmax(dim=-1).gather(-1, probe.targets[..., None])[..., 0]
        answered = real.clone()  # without the end of document, the last real token
        answered.scatter_(1, real.sum(dim=1, keepdim=True) - 1, False)
        correct.append(((top == probe.targets) | ~answered).all(dim=1).cpu())
        scores.append((of_target.double() * real).sum(dim=1).cpu())
        first.append(top[:, 0].cpu())
    return torch.cat(correct), torch.cat(scores), torch.cat(first)

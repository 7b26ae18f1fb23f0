"""Record of one diagnosis: the result file of ``pause-megatron diagnose``."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Positions = Literal["prompt", "pauses", "answer"]
"""Groups of positions. As queries, ``answer`` are the positions that predict the answer, the last pause among them; as
keys, the tokens of the answer."""


@dataclass(frozen=True, kw_only=True)
class AttentionRecord:
    """Mean share of their attention that ``queries`` give to ``keys``."""

    queries: Positions
    keys: Positions
    uniform: float
    """Share if every position attended equally to all that it sees."""
    heads: tuple[tuple[float, ...], ...]
    """Share by layer and head."""


@dataclass(frozen=True, kw_only=True)
class LensRecord:
    """Logit lens at the pauses after one layer: the final norm and the output layer, applied to its output.

    Each tuple has one value for each pause.
    """

    layer: int
    """Layers that the hidden states have passed; 0 for the embeddings."""
    answer_share: tuple[float, ...]
    """Share of prompts whose likeliest token is the first token of the answer."""
    answer_log_probability: tuple[float, ...]
    """Mean log-probability of the first token of the answer, in nats."""
    entropy: tuple[float, ...]
    """Mean entropy of the prediction, in nats."""
    top_token: tuple[str, ...]
    """Text that is the likeliest token most often."""
    top_share: tuple[float, ...]
    """Share of prompts for which it is."""


@dataclass(frozen=True, kw_only=True)
class AnswersRecord:
    """Answers with one number of pauses."""

    num_pauses: int
    correct: float
    """Share of prompts for which each token of the answer is the likeliest after the tokens before it."""
    log_probability: float
    """Mean log-probability of the answer with its end, in nats."""
    same_first_token: float
    """Share of prompts whose likeliest first token is that with the number of pauses of the diagnosis."""
    top_token: str | None = None
    """Text that is the likeliest first token most often; None in a file of an older version."""
    top_share: float | None = None
    """Share of prompts for which it is: 1 if the model answers all alike; None in a file of an older version."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingRecord:
    """Input embedding of ``<pause>`` at one checkpoint, or in the diagnosed model."""

    iteration: int | None
    """Pretraining iteration; None for the diagnosed model."""
    norm: float
    norm_of_text: float
    """Mean norm of all other rows."""
    movement: float
    """Distance to the first of the records."""
    cosine_with_first: float
    cosine_with_mean: float
    """Cosine with the mean of all other rows."""
    nearest: tuple[str, ...]
    """Texts of the tokens with the largest cosine, the nearest first."""
    nearest_cosine: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DiagnosisRecord:
    """What a model does at its pauses."""

    FORMAT: ClassVar[str] = "pause_megatron/diagnosis/1"
    PRODUCER: ClassVar[str] = "pause-megatron diagnose"

    format: str = FORMAT
    model: str
    """Folder of the model, as the user gave it."""
    task: str
    num_pauses: int
    """Pauses in each prompt while attention and logit lens were measured."""
    num_pauses_ft: int | None
    """Pauses in finetuning (M_ft); None for a model that is not finetuned."""
    prefix_attention: Literal["bidirectional", "causal"]
    num_prompts: int
    best_constant: float | None = None
    """Share of prompts whose answer begins with the most frequent first token of all answers; None in a file of an
    older version."""
    attention: tuple[AttentionRecord, ...]
    lens: tuple[LensRecord, ...]
    answers: tuple[AnswersRecord, ...]
    """In the order of the number of pauses."""
    embedding: tuple[EmbeddingRecord, ...]
    """Checkpoints in the order of training, then the diagnosed model."""
    config: dict[str, Any]
    """Resolved configuration."""
    versions: dict[str, str]
    """Package to installed version."""
    device: str
    seconds: float
    """Wall time."""

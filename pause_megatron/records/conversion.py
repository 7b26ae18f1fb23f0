"""Records of conversions between checkpoints and Hugging Face folders: ``conversion_report.json``."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pause_megatron.records.pretraining import KindOfRates


@dataclass(frozen=True, kw_only=True)
class PretrainingRecord:
    """How an exported model was pretrained; finetuning and evaluation pass it on.

    The optional keys are missing in files of older versions, whose runs count as seeds of nothing but themselves.
    """

    name: str
    """Name of the run's folder."""
    model_name: str | None = None
    """Name of the model, which its runs with other seeds share; None: ``name``."""
    seed: int | None = None
    """Seed of the initial weights and of the data order."""
    parameters: int | None = None
    """Parameters of the model, without padding rows of the vocabulary."""
    non_embedding_parameters: int | None = None
    """Parameters without the embeddings of tokens and positions and without the output layer."""
    pauses: str
    """Pause strategy of the training data; "none" without pauses."""
    pause_rate: float
    """Pauses per real token, before trimming."""
    pause_inputs: str | None = None
    """Input at pauses: "pause", or "repeat" for the real token before them; None in older files, which mean "pause"."""
    filler: str | None = None
    """Text read at pauses instead of ``<pause>``; None for ``<pause>``."""
    pauses_per_token: int | None = None
    """Pauses of a group, for the strategy "every"; None for other strategies, for blends and in older files."""
    pause_interval: int | None = None
    """Real tokens between two groups of pauses, for the strategy "every"; else None."""
    rates: KindOfRates | None = None
    """"drawn" or "drawn+fixed" if sequences or documents have rates of their own; None if all have the same."""
    pause_positions: str | None = None
    """"shared" if a pause has the position index of the real token before it; None if it has its own."""
    distinct_pauses: int | None = None
    """Number of distinct pauses; None with one ``<pause>``."""
    seq_length: int
    """Tokens of a training sequence."""
    iterations: int
    """Optimizer steps."""
    consumed_samples: int
    """Training sequences."""
    real_tokens: int
    pause_tokens: int

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.model_name or self.name


@dataclass(frozen=True, kw_only=True)
class ExportedTokenizerRecord:
    """The tokenizer of an export."""

    sha256: str
    """SHA-256 of the tokenizer's file."""
    vocab_size: int
    pause_id: int
    """Token id of ``<pause>``, or of the first of several distinct pauses."""
    distinct_pauses: int | None = None
    """Number of distinct pauses, whose ids follow each other; None with one ``<pause>``."""
    eod_id: int
    """Token id of end-of-document."""
    texts_compared: int
    """Texts that the exported tokenizer was compared on with the original."""
    baked_pauses: int
    """Pauses that the tokenizer appends to each prompt by itself."""


@dataclass(frozen=True, kw_only=True)
class LogitComparison:
    """Logits of a checkpoint and of its Hugging Face model, compared position by position in fp32."""

    max_abs_logit_difference: float
    max_kl_divergence: float
    """Largest divergence of a position's next-token distribution, in nats."""
    tolerance: float
    """Largest accepted ``max_abs_logit_difference``."""
    sequences: int
    """Sequences compared; every second one contains pauses."""
    positions: int
    """Positions compared."""
    pauses: int
    """Positions that hold a pause."""
    method: Literal["whole", "layers"]
    """Whether complete models or one layer at a time were in memory."""
    passed: bool


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """``conversion_report.json`` of an exported Hugging Face folder."""

    FORMAT: ClassVar[str] = "pause_megatron/conversion/1"
    FILE: ClassVar[str] = "conversion_report.json"
    PRODUCER: ClassVar[str] = "pause-megatron convert-to-hf"

    format: str = FORMAT
    pretraining: PretrainingRecord
    tokenizer: ExportedTokenizerRecord
    dtype: str
    """Data type of the exported weights."""
    verdict: LogitComparison
    source: dict[str, Any]
    """Checkpoint folder, its layout and the run's configuration."""
    files: dict[str, str] | None = None
    """Name to SHA-256 of the folder's files with weights, tokenizer and configuration; None in older folders."""
    commit: str | None
    """Commit of this project's sources; None outside a git checkout."""
    versions: dict[str, str]
    """Package to installed version."""


@dataclass(frozen=True, kw_only=True)
class ImportRecord:
    """``conversion_report.json`` of a checkpoint made from a Hugging Face folder."""

    FORMAT: ClassVar[str] = ExportRecord.FORMAT
    FILE: ClassVar[str] = ExportRecord.FILE
    PRODUCER: ClassVar[str] = "pause-megatron convert-from-hf"

    format: str = FORMAT
    source: dict[str, Any]
    """Hugging Face folder and its configuration."""
    pause_added: bool
    """Whether ``<pause>`` was added to the vocabulary."""
    verdict: LogitComparison
    commit: str | None
    """Commit of this project's sources; None outside a git checkout."""
    versions: dict[str, str]
    """Package to installed version."""

"""Model architecture, sizes and presets; ``config/parallel.py`` has the layout."""

from dataclasses import dataclass
from typing import Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError

PADDED_VOCAB_MULTIPLE = 128
"""Multiple that the number of vocabulary rows is padded to. Padding rows take part in the softmax, so their number must
not depend on the tensor-parallel size: two layouts of one run would compute different losses."""


def padded_vocab_size(vocab_size: int) -> int:
    """``vocab_size`` rounded up to a multiple of :data:`PADDED_VOCAB_MULTIPLE`, for example 250 to 256."""
    return -(-vocab_size // PADDED_VOCAB_MULTIPLE) * PADDED_VOCAB_MULTIPLE


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture and sizes of the decoder-only transformer."""

    architecture: Literal["gpt2", "llama"] = "gpt2"
    """Block: gpt2 (the paper's: LayerNorm, biases, GELU, learned positions) or llama (RMSNorm, SwiGLU, rotary)."""
    num_layers: int = 12
    """Transformer layers."""
    hidden_size: int = 768
    """Width of the residual stream."""
    num_attention_heads: int = 12
    """Query heads in a layer; must divide --hidden-size."""
    num_query_groups: int = 0
    """Key/value heads in a layer, for grouped-query attention (0: one for each query head)."""
    ffn_hidden_size: int = 0
    """Width of the MLP (0: 4 * hidden_size for gpt2, 8/3 * hidden_size rounded up to a multiple of 64 for llama)."""
    max_position_embeddings: int = 2048
    """Longest context in tokens; must be at least the sequence length of the data."""
    untie_embeddings_and_output_weights: bool = True
    """Use separate input and output embeddings, as the paper's parameter counts suggest for a 32k vocabulary."""
    layernorm_epsilon: float = 1e-5
    """Epsilon of LayerNorm and RMSNorm."""
    init_method_std: float = 0.02
    """Standard deviation of initial weights; output projections of attention and MLP use std / sqrt(2 * num_layers)."""
    rotary_base: int = 10000
    """Base of the rotary frequencies (llama only)."""
    gelu: Literal["exact", "tanh"] = "exact"
    """GELU (gpt2 only): exact, or the tanh approximation of OpenAI's GPT-2."""
    pause_positions: Literal["shift", "shared"] = "shift"
    """Position index of a pause: the next one, as of any token (shift, as in the paper), or that of the real token
    before it (shared); --max-position-embeddings then counts real tokens only."""

    def __post_init__(self) -> None:
        heads, groups = self.num_attention_heads, self.num_query_groups
        require_at_least(1, num_layers=self.num_layers, hidden_size=self.hidden_size, num_attention_heads=heads)
        require_at_least(1, max_position_embeddings=self.max_position_embeddings)
        if self.hidden_size % heads:
            raise UserError(f"--hidden-size {self.hidden_size} is not a multiple of --num-attention-heads {heads}")
        if heads % self.query_groups:
            raise UserError(f"--num-attention-heads {heads} is not a multiple of --num-query-groups {groups}")

    @property
    def shares_positions(self) -> bool:
        """Whether a pause has the position index of the real token before it."""
        return self.pause_positions == "shared"

    @property
    def query_groups(self) -> int:
        """Key/value heads in a layer, with the default resolved."""
        return self.num_query_groups or self.num_attention_heads

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def ffn_size(self) -> int:
        """Width of the MLP, with the default resolved."""
        if self.ffn_hidden_size:
            return self.ffn_hidden_size
        return 4 * self.hidden_size if self.architecture == "gpt2" else -(-8 * self.hidden_size // 3 // 64) * 64

    @property
    def norm_parameters(self) -> int:
        """Parameters of one norm: a scale, and for LayerNorm (gpt2) a shift too."""
        return self.hidden_size * (1 if self.architecture == "llama" else 2)

    def layer_parameters(self, tp: int = 1) -> int:
        """Parameters of one transformer layer on each of ``tp`` tensor-parallel ranks.

        Tensor parallelism divides the matrices, and the biases of queries, keys, values and the MLP's first matrix.
        Every rank holds the norms, and the biases of the output projections of attention and of the MLP.
        """
        hidden, ffn = self.hidden_size, self.ffn_size
        query_key_value = hidden + 2 * self.query_groups * self.head_dim
        attention = hidden * query_key_value + hidden * hidden
        if self.architecture == "llama":
            return (attention + 3 * hidden * ffn) // tp + 2 * self.norm_parameters
        return (attention + 2 * hidden * ffn + query_key_value + ffn) // tp + 2 * hidden + 2 * self.norm_parameters

    @property
    def non_embedding_parameters(self) -> int:
        """Parameters of the layers and of the last norm: without embeddings and output layer."""
        return self.num_layers * self.layer_parameters() + self.norm_parameters

    def num_parameters(self, vocab_size: int) -> int:
        """Parameters of the model with ``vocab_size`` vocabulary rows (without padding rows, unless you count them)."""
        rows = vocab_size * (2 if self.untie_embeddings_and_output_weights else 1)
        rows += self.max_position_embeddings if self.architecture == "gpt2" else 0
        return rows * self.hidden_size + self.non_embedding_parameters


_130M: dict[str, object] = {"num_layers": 12, "hidden_size": 768, "num_attention_heads": 12}
_1B: dict[str, object] = {"num_layers": 24, "hidden_size": 2048, "num_attention_heads": 32}
MODEL_PRESETS: dict[str, dict[str, object]] = {
    "tiny": {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 256},
    "130m": _130M,
    "1b": _1B,
    "llama-130m": {"architecture": "llama", **_130M},
    "llama-1b": {"architecture": "llama", **_1B},
}
"""Model sizes by name: 130m and 1b are Table 5 of the paper (arXiv 2310.02226). The llama presets have the same depth,
width and heads. Their three MLP matrices together are as large as gpt2's two, so the parameters differ by < 2 %."""

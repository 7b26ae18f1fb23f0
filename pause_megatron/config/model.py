"""Model architecture, sizes and presets; ``config/parallel.py`` has the layout."""

from dataclasses import dataclass
from typing import Literal

from pause_megatron.config.checks import require_at_least, require_positive
from pause_megatron.errors import UserError

PADDED_VOCAB_MULTIPLE = 128
"""Multiple that the number of vocabulary rows is padded to. Padding rows take part in the softmax, so their number must
not depend on the tensor-parallel size: two layouts of one run would compute different losses."""

ROPE_SCALING = (
    "rope_scaling_factor",
    "rope_low_freq_factor",
    "rope_high_freq_factor",
    "rope_original_max_position_embeddings",
)
"""Settings that count only under ``use_rope_scaling``."""


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
    kv_channels: int = 0
    """Width of an attention head (0: hidden_size / num_attention_heads; llama only)."""
    add_qkv_bias: bool = False
    """Add a bias to queries, keys and values, as Qwen2 does (llama only; gpt2 has biases everywhere). Exports need a
    tokenizer of Qwen2, because transformers loads no other."""
    qk_layernorm: bool = False
    """Normalize every head of the queries and keys with RMSNorm before their rotation, as Qwen3 does (llama only)."""
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
    use_rope_scaling: bool = False
    """Lower the rotary frequencies for a longer context, as Llama 3.1 does (llama only)."""
    rope_scaling_factor: float = 8.0
    """Divisor of the low rotary frequencies under --use-rope-scaling."""
    rope_low_freq_factor: float = 1.0
    """Frequencies with fewer rotations than this over the original context count as low (--use-rope-scaling)."""
    rope_high_freq_factor: float = 4.0
    """Frequencies with more rotations than this over the original context do not change (--use-rope-scaling)."""
    rope_original_max_position_embeddings: int = 8192
    """Context before the scaling, in tokens (--use-rope-scaling)."""
    gelu: Literal["exact", "tanh"] = "exact"
    """GELU (gpt2 only): exact, or the tanh approximation of OpenAI's GPT-2."""
    pause_positions: Literal["shift", "shared"] = "shift"
    """Position index of a pause: the next one, as of any token (shift, as in the paper), or that of the real token
    before it (shared); --max-position-embeddings then counts real tokens only."""

    def __post_init__(self) -> None:
        heads, groups = self.num_attention_heads, self.num_query_groups
        require_at_least(1, num_layers=self.num_layers, hidden_size=self.hidden_size, num_attention_heads=heads)
        require_at_least(1, max_position_embeddings=self.max_position_embeddings)
        require_at_least(0, kv_channels=self.kv_channels)
        # transformers refuses such a Llama, and allows such a Qwen
        own_width = self.kv_channels and (self.add_qkv_bias or self.qk_layernorm)
        if self.hidden_size % heads and not own_width:
            raise UserError(f"--hidden-size {self.hidden_size} is not a multiple of --num-attention-heads {heads}")
        if heads % self.query_groups:
            raise UserError(f"--num-attention-heads {heads} is not a multiple of --num-query-groups {groups}")
        if self.architecture == "llama":
            self._check_llama()
        else:
            self._refuse_llama_settings()
        self._check_rope_scaling()

    def _check_llama(self) -> None:
        if self.head_dim % 2:
            flag = f"--kv-channels {self.kv_channels}" if self.kv_channels else f"--hidden-size {self.hidden_size}"
            raise UserError(f"{flag}: heads of width {self.head_dim} cannot be rotated; give an even width")
        if self.add_qkv_bias and self.qk_layernorm:
            raise UserError(
                "--add-qkv-bias and --qk-layernorm: no model of Hugging Face has both, so it could not be exported;"
                " give one of them"
            )

    def _refuse_llama_settings(self) -> None:
        for name in ("kv_channels", "add_qkv_bias", "qk_layernorm", "use_rope_scaling"):
            if getattr(self, name):
                flag = name.replace("_", "-")
                raise UserError(f"--{flag}: needs --architecture llama, not {self.architecture}; remove one of them")

    def _check_rope_scaling(self) -> None:
        for name in ROPE_SCALING:
            value = getattr(self, name)
            if not self.use_rope_scaling and value != getattr(ModelConfig, name):
                raise UserError(f"--{name.replace('_', '-')} {value:g}: needs --use-rope-scaling; add it")
        low, high = self.rope_low_freq_factor, self.rope_high_freq_factor
        original = self.rope_original_max_position_embeddings
        require_at_least(
            1, rope_scaling_factor=self.rope_scaling_factor, rope_original_max_position_embeddings=original
        )
        require_positive(rope_low_freq_factor=low)
        if not low < high:
            raise UserError(f"--rope-high-freq-factor {high:g}: must be above --rope-low-freq-factor {low:g}")

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
        """Width of one attention head, with the default resolved."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def query_size(self) -> int:
        """Width of all query heads together, the input of attention's output projection."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Width of all key heads together, or of all value heads."""
        return self.query_groups * self.head_dim

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
        query_key_value = self.query_size + 2 * self.key_size
        attention = hidden * query_key_value + self.query_size * hidden
        if self.architecture == "llama":
            biases = query_key_value if self.add_qkv_bias else 0
            norms = 2 * self.norm_parameters + (2 * self.head_dim if self.qk_layernorm else 0)
            return (attention + 3 * hidden * ffn + biases) // tp + norms
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

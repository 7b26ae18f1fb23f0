"""Stored sequences as text: tokens between bars, visible pauses, and marks below the positions without loss.

Lines are :class:`rich.text.Text`: coloured on a terminal, plain elsewhere. No information is in colour only.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.text import Text

from pause_megatron.errors import UserError
from pause_megatron.pauses.loss_mask import loss_mask
from pause_megatron.preprocess.dataset_manifest import DatasetManifest
from pause_megatron.preprocess.indexed_files import IndexFile
from pause_megatron.preprocess.shard_spans import ShardSpan
from pause_megatron.tokenizer import PauseTokenizer

PAUSE = "<pause>"
END_OF_DOCUMENT = "<eod>"
NO_LOSS = "^"
FURTHER_BYTE = "\u00b7"  # for a token that is a further byte of the character before it
LEGEND = (
    f"Bars separate tokens; {END_OF_DOCUMENT} is the end of a document; numbers are positions; {NO_LOSS} marks "
    f"positions without loss, because the next token is {PAUSE} or unknown."
)

_PAUSE_STYLE = "black on #e69f00"
_END_STYLE = "black on #56b4e9"
_MARK_STYLE = "#d55e00"
_BAR = "\u2502"
_INCOMPLETE = "\ufffd"
_LONGEST_CHARACTER = 4  # bytes in UTF-8
_SHOWN = {"\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d"}  # signs for characters that would break a line


@dataclass(frozen=True)
class StoredSample:
    """One stored sequence, with the loss mask of training."""

    index: int
    """Index among all sequences of the dataset."""
    span: ShardSpan
    place: int
    """Index among the sequences of its shard."""
    tokens: NDArray[np.integer]
    """Token ids, shape ``[tokens]``."""
    has_loss: NDArray[np.bool_]
    """Positions with loss: the target, the next token, is not a pause; shape ``[tokens]``."""


def choose_indices(wanted: Sequence[int], samples: int, sequences: int) -> Sequence[int]:
    """Return ``wanted`` after a check, or the indices of ``samples`` sequences at equal distances if it is empty."""
    for index in wanted:
        if index >= sequences:
            raise UserError(f"--indices {index}: the dataset has {sequences} sequences; give 0 to {sequences - 1}")
    count = min(samples, sequences)
    return wanted or [sequences * place // count for place in range(count)]


def read_sample(spans: Sequence[ShardSpan], manifest: DatasetManifest, index: int) -> StoredSample:
    """Read sequence ``index`` of the dataset with the shards ``spans``.

    The target of the last position is the first token of the shard's next sequence if that continues the text, else
    none. Behind a document Megatron packs another one, which never begins with a pause.
    """
    starts = [0, *accumulate(span.shard.sequences for span in spans)]
    number = bisect_right(starts, index) - 1
    span, place = spans[number], index - starts[number]
    file = IndexFile.open(span.idx_path)
    in_file = span.first_sequence + place
    length, offset = int(file.lengths(in_file, in_file + 1)[0]), int(file.offsets(in_file, in_file + 1)[0])
    continued = manifest.trimmed == "carry" and manifest.seq_length > 0 and place + 1 < span.shard.sequences
    tokens = np.fromfile(span.bin_path, file.dtype, length + int(continued), offset=offset)
    targets = tokens[1:]
    if not continued:
        after = manifest.eod_id if manifest.strategy == "document" else manifest.pause_id
        targets = np.append(targets, np.array(after, tokens.dtype))
    return StoredSample(index, span, place, tokens[:length], loss_mask(targets, manifest.pause_ids))


class TokenTexts:
    """Texts of single tokens."""

    def __init__(self, tokenizer: PauseTokenizer) -> None:
        self._tokenizer = tokenizer
        self._anchor = tokenizer.encode("a")[-1:]  # decoders drop a leading space, so decode each token behind this one
        self._anchor_text = tokenizer.decode(self._anchor)
        self._known = dict(zip(tokenizer.pause_ids, tokenizer.pause_names, strict=True))
        self._known[tokenizer.eod_id] = END_OF_DOCUMENT

    def texts(self, tokens: Sequence[int]) -> list[str]:
        """Return a printable text for each of ``tokens``: its id in angle brackets if it has no text.

        If several tokens encode one character byte by byte, the first of them shows the character.
        """
        texts: list[str] = []
        while len(texts) < len(tokens):
            rest = tokens[len(texts) : len(texts) + _LONGEST_CHARACTER]
            texts += self._character(rest) or [self._text(rest[0])]
        return texts

    def style(self, token: int) -> str:
        """Return the style of ``token``: that of pauses, of the end of a document, or none."""
        if token in self._tokenizer.pause_ids:
            return _PAUSE_STYLE
        return _END_STYLE if token == self._tokenizer.eod_id else ""

    def _text(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = "".join(map(_printable, self._decode([token]))) or f"<{token}>"
        return self._known[token]

    def _character(self, tokens: Sequence[int]) -> list[str]:
        """Return the texts of the first of ``tokens`` that encode one character together; empty if none do."""
        if _INCOMPLETE not in self._text(tokens[0]):
            return []
        for count in range(2, len(tokens) + 1):
            decoded = self._decode(tokens[:count])
            if _INCOMPLETE not in decoded:
                return ["".join(map(_printable, decoded)), *[FURTHER_BYTE] * (count - 1)]
        return []

    def _decode(self, tokens: Sequence[int]) -> str:
        decoded = self._tokenizer.decode([*self._anchor, *tokens])
        if decoded.startswith(self._anchor_text):
            return decoded.removeprefix(self._anchor_text)
        return self._tokenizer.decode([*tokens])


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return _SHOWN.get(character, character.encode("unicode_escape").decode())


def sample_lines(sample: StoredSample, texts: TokenTexts, tokens: int, width: int) -> Iterator[Text]:
    """Yield the first ``tokens`` positions of ``sample`` (0: all) in lines of ``width`` columns."""
    shown = min(tokens or len(sample.tokens), len(sample.tokens))
    margin = len(str(shown)) + 2
    upper, lower = _new_lines(0, margin)
    for position, text in enumerate(texts.texts(sample.tokens[:shown].tolist())):
        cells = cell_len(text)
        if upper.cell_len + cells + 1 > width and upper.cell_len > margin + 1:
            yield from _filled(upper, lower)
            upper, lower = _new_lines(position, margin)
        upper.append(text, style=texts.style(int(sample.tokens[position])))
        upper.append(_BAR, style="dim")
        lower.append((" " if sample.has_loss[position] else NO_LOSS) * cells + " ", style=_MARK_STYLE)
    yield from _filled(upper, lower)
    if shown < len(sample.tokens):
        yield Text(f"... {len(sample.tokens) - shown} more tokens", style="dim")


def _new_lines(position: int, margin: int) -> tuple[Text, Text]:
    return Text.assemble((f"{position:>{margin - 1}} {_BAR}", "dim")), Text(" " * (margin + 1))


def _filled(upper: Text, lower: Text) -> Iterator[Text]:
    yield upper
    lower.rstrip()
    if lower:
        yield lower

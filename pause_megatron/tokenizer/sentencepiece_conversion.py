"""Conversion of a SentencePiece model to the ``tokenizers`` library, from the model's own pieces and scores.

The Hugging Face export and the fast encoder start from the result. The classes of transformers that open a ``.model``
file give other ids than SentencePiece, and take names of special tokens in a text for the tokens.
"""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.model_file import ModelSettings, PieceType
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS
from pause_megatron.tokenizer.sentencepiece_backend import SPACE, SentencePieceBackend
from pause_megatron.tokenizer.tokenizer_json import split_names


def convert_sentencepiece(backend: SentencePieceBackend) -> Tokenizer:
    """The tokenizer that encodes as ``backend`` does, without special tokens.

    Raises :class:`UserError` for a model that the library does not support.
    """
    _refuse_unsupported(backend)
    if backend.settings.model_type == "unigram":
        tokenizer = _unigram(backend)
    else:
        vocabulary = {piece: index for index, piece in enumerate(backend.pieces)}
        has_bytes = PieceType.BYTE in backend.types
        model = models.BPE(
            vocabulary, _merges(backend), unk_token=backend.unk_name, fuse_unk=True, byte_fallback=has_bytes
        )
        tokenizer = Tokenizer(model)
    tokenizer.normalizer = _normalizer(backend.settings)
    tokenizer.decoder = _decoder(backend.settings)
    return tokenizer


def require_convertible(backend: SentencePieceBackend) -> None:
    """Raise :class:`UserError` unless ``backend`` can be converted and the result gives its ids for edge cases."""
    converted = convert_sentencepiece(backend)
    for text in EDGE_CASE_TEXTS:
        if converted.encode(text).ids != backend.encode(text):
            raise UserError(
                f"{backend.path}: cannot be converted to Hugging Face: {text!r} would be encoded differently; "
                "use another model"
            )


def _refuse_unsupported(backend: SentencePieceBackend) -> None:
    settings, types = backend.settings, backend.types
    characters = {character for index in _ordinary_ids(backend) for character in backend.pieces[index]}
    reasons = (
        (settings.model_type not in ("unigram", "bpe"), f"is of type {settings.model_type}, not unigram or BPE"),
        (not settings.marks_spaces_in_front, "does not mark a space by U+2581 in front of a word"),
        (PieceType.UNUSED in types, "has unused pieces"),
        (PieceType.USER_DEFINED in types, "has user-defined symbols"),
        (backend.is_bpe and not characters <= set(backend.pieces), "has pieces with characters that are not pieces"),
    )
    for unsupported, reason in reasons:
        if unsupported:
            raise UserError(f"{backend.path}: cannot be converted to Hugging Face: it {reason}; use another model")


def _ordinary_ids(backend: SentencePieceBackend) -> list[int]:
    """Ids of the pieces that SentencePiece matches in a text."""
    return [index for index, kind in enumerate(backend.types) if kind is PieceType.NORMAL]


def _unigram(backend: SentencePieceBackend) -> Tokenizer:
    """Convert a unigram model so that special and byte pieces never match in a text, which `tokenizers` would allow.

    If all their characters are pieces, too, they get scores below any way to spell them out. Otherwise, texts are split
    within their names.
    """
    ordinary = set(_ordinary_ids(backend))
    scores = [backend.processor.get_score(index) for index in range(backend.vocab_size)]
    names = {index: piece for index, piece in enumerate(backend.pieces) if index not in ordinary}
    spelled = {backend.pieces[index] for index in ordinary if len(backend.pieces[index]) == 1}
    splits = None
    if all(set(name) <= spelled for name in names.values()):
        lowest = min(scores[index] for index in ordinary)
        for index, name in names.items():
            scores[index] = lowest * len(name) - 1
    else:
        splits = split_names(names.values(), known=spelled)
    vocabulary, has_bytes = list(zip(backend.pieces, scores, strict=True)), PieceType.BYTE in backend.types
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=backend.unk_id, byte_fallback=has_bytes))
    if splits:
        pattern = Regex(splits["pattern"]["Regex"])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="merged_with_previous")
    return tokenizer


def _merges(backend: SentencePieceBackend) -> list[tuple[str, str]]:
    """Merges of a BPE model, which SentencePiece does not store.

    SentencePiece joins the neighbours that make the piece with the highest score, the leftmost first. Every way to make
    a piece of two others is therefore a merge with the rank of that piece. `tokenizers` needs an order among the merges
    of one piece: the one with the longest left part comes first, since joining from the left produces it.
    """
    vocabulary = {backend.pieces[index]: backend.processor.get_score(index) for index in _ordinary_ids(backend)}
    merges = [
        (piece[:split], piece[split:])
        for piece in vocabulary
        for split in range(1, len(piece))
        if piece[:split] in vocabulary and piece[split:] in vocabulary
    ]
    return sorted(merges, key=lambda merge: (-vocabulary[merge[0] + merge[1]], -len(merge[0])))


def _normalizer(settings: ModelSettings) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if settings.precompiled_charsmap:
        # Differs from SentencePiece in rare texts: a combining mark after a replaced character (½ and U+0301) is lost,
        # and \r\n becomes one space instead of two. prove_equal refuses an export that meets such a text.
        steps.append(normalizers.Precompiled(settings.precompiled_charsmap))
    if settings.remove_extra_whitespaces:
        # Only spaces: normalizers.Strip also removes other white space.
        steps.append(normalizers.Replace(Regex(r"\A +| +\z| (?= )"), ""))
    if settings.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _decoder(settings: ModelSettings) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if settings.add_dummy_prefix:
        steps.append(decoders.Strip(" ", left=1))
    return decoders.Sequence(steps)

"""Tokenizers without ``<pause>``, one of each kind that this project supports."""

import io
import json
from pathlib import Path

from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pause_megatron.tokenizer.model_file import read_settings
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.sentencepiece_conversion import convert_sentencepiece
from pause_megatron.tokenizer.tokenizer_json import WORD_PATTERNS

KINDS = ("sentencepiece-llama", "sentencepiece-t5", "gpt2", "qwen2", "llama2", "t5")
BPE_KINDS = ("sentencepiece-llama", "gpt2", "qwen2", "llama2")


def make_foreign(folder, kind, texts):
    """Write a tokenizer of ``kind``, trained on ``texts``, to ``folder`` and return its file."""
    folder.mkdir()
    if kind.startswith("sentencepiece"):
        return write(folder / "spiece.model", sentencepiece_model(kind, texts))
    tokenizer, eos = {"gpt2": gpt2, "qwen2": qwen2, "llama2": llama2, "t5": t5}[kind](texts)
    config = {"eos_token": eos, "tokenizer_class": "Unknown", "add_bos_token": True, "model_max_length": 512}
    write(folder / "tokenizer_config.json", json.dumps(config).encode())
    return write(folder / "tokenizer.json", tokenizer.to_str().encode())


def write(path, content):
    path.write_bytes(content)
    return path


def sentencepiece_model(kind, texts, **settings):
    llama = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
    }
    t5 = {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.split("\n")]),
        model_writer=model,
        **{"vocab_size": 2000, "minloglevel": 2, **(llama if "llama" in kind else t5), **settings},
    )
    return model.getvalue()


def train_bpe(tokenizer, texts):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def gpt2(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    train_bpe(tokenizer, texts)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(pad_token="<|endoftext|>")
    return tokenizer, "<|endoftext|>"


def qwen2(texts):
    """Also has added tokens that are not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORD_PATTERNS[1]), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    train_bpe(tokenizer, texts)
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return tokenizer, {"__type": "AddedToken", "content": "<|im_end|>"}


def llama2(texts):
    """Has a merge that joins text to the name of a special token, as some published conversions do."""
    model = sentencepiece_model("sentencepiece-llama", texts)
    content = json.loads(convert_sentencepiece(SentencePieceBackend(Path("llama", "tokenizer.model"), model)).to_str())
    content["model"]["merges"] += [["<", "/"], ["</", "s"], ["</s", ">"]]
    for piece in ("</", "</s"):
        content["model"]["vocab"].setdefault(piece, len(content["model"]["vocab"]))
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer, "</s>"


def t5(texts):
    model = sentencepiece_model("sentencepiece-t5", texts)
    backend = SentencePieceBackend(Path("t5", "spiece.model"), model)
    scores = map(backend.processor.get_score, range(backend.vocab_size))
    pieces = [*zip(backend.pieces, scores, strict=True), ("<extra_id_1>", 0.0), ("<extra_id_0>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.Precompiled(read_settings(model).precompiled_charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer, "</s>"

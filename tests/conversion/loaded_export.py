"""Logits, ids and texts of Hugging Face folders in the transformers that Python finds first; a script.

    PYTHONPATH=... python loaded_export.py OUTPUT.pt TEXTS.json FOLDER [FOLDER ...]

It imports nothing of this project, and writes a mapping from folder to findings.
"""

import json
import sys
from typing import Any

import torch
import transformers

CHAT = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "one"}]


@torch.no_grad()
def findings(folder: str, texts: list[str]) -> dict[str, Any]:
    """What the stock classes make of ``texts`` and of random ids."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    # The versions have different defaults: fp32, and the dtype of the file
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (2, model.config.max_position_embeddings), generator=generator)
    ids = [tokenizer(text).input_ids for text in texts]
    chat = None
    if tokenizer.chat_template:
        chat = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    prompt = torch.tensor([ids[0] or [0]])
    generated = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False)
    # Without unk_token: transformers 5 gives Qwen2 one, which byte-level BPE never uses
    special = ("bos_token", "eos_token", "pad_token")
    return {
        "logits": model(tokens).logits.float(),
        "ids": ids,
        "ids, without additions": [tokenizer(text, add_special_tokens=False).input_ids for text in texts],
        "decoded": [tokenizer.decode(row, skip_special_tokens=True) for row in ids],
        "special tokens": {name: getattr(tokenizer, name) for name in special},
        "longest input": tokenizer.model_max_length,
        "chat": chat,
        "chat ids": chat and tokenizer(chat, add_special_tokens=False).input_ids,
        "stop tokens": model.generation_config.eos_token_id,
        "suppressed": model.generation_config.suppress_tokens,
        "generated": generated.tolist(),
        "generated text": tokenizer.decode(generated[0], skip_special_tokens=True),
    }


if __name__ == "__main__":
    output, texts_file, *folders = sys.argv[1:]
    with open(texts_file, encoding="utf-8") as file:
        texts = json.load(file)
    found = {folder: findings(folder, texts) for folder in folders}
    torch.save({"version": transformers.__version__, "folders": found}, output)

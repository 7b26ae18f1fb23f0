"""Texts on which tokenizers that should be equal are always compared, besides the texts at hand."""

AWKWARD_TEXTS = (
    "",
    " ",
    "   two  runs   of spaces   ",
    "\n",
    "first line\n\n  indented line\r\n\tafter a tab\n",
    "<pause>",
    "a literal <pause> in text, </s> and <unk>, and <0x41>",
    "<|endoftext|> and<s>",
    "▁ ▁▁word",
    "naïve café, cafe\u0301, ﬁne ½ №",
    "日本語の文章、العربية, кириллица",
    "😀 👩‍👩‍👧 \u200b\ufeff\ufffd",
    "\x00\x07\x7f",
    "1234567890 3.14 1,000,000",
    "DON'T we'Ve it's",
    "a" * 1000,
)
"""What conversions of tokenizers are known to get wrong."""

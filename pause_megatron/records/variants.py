"""Names of the paper's four variants, and their labels.

A variant (Goyal et al. 2024) pairs pretraining (``stdpt``, ``pausept``) with finetuning (``stdft``, ``pauseft``).
For example, ``pausept_stdft`` was pretrained with pauses and finetuned without.
"""

VARIANT_LABELS = {
    "stdpt_stdft": "StdPT_StdFT",
    "stdpt_pauseft": "StdPT_PauseFT",
    "pausept_stdft": "PausePT_StdFT",
    "pausept_pauseft": "PausePT_PauseFT",
}
VARIANTS = tuple(VARIANT_LABELS)
"""The baseline first."""
BASELINE = VARIANTS[0]
"""The variant that all others are compared with."""


def pretrained_name(strategy: str) -> str:
    """Return "stdpt" or "pausept" for the pause ``strategy`` of the pretraining data; "none" is without pauses."""
    return "stdpt" if strategy == "none" else "pausept"


def variant_name(strategy: str, num_pauses_ft: int) -> str:
    """Return the variant of a model pretrained with ``strategy`` and finetuned with ``num_pauses_ft`` pauses."""
    return f"{pretrained_name(strategy)}_{'pauseft' if num_pauses_ft else 'stdft'}"

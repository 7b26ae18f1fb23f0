"""Real samples of the paper's nine tasks, if they are next to the repository."""

from pathlib import Path

SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "tasks"
FOLDERS = {
    "gsm8k": "gsm8k",
    "squad": "squad",
    "coqa": "coqa",
    "commonsense_qa": "commonsense_qa",
    "piqa": "piqa",
    "hellaswag": "hellaswag",
    "lambada": "lambada_openai",
    "web_questions": "webqs",
    "natural_questions": "nq_open",
}
"""Task to the folder of its samples, which is named as the data set is."""

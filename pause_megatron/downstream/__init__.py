"""The Hugging Face half: tasks, finetuning, evaluation and generation with pauses appended to the prompt.

Importing it keeps the libraries' progress bars and advice off the terminal, where a person's own settings do not say
otherwise. It happens here because those libraries read the environment once, when they are first imported.
"""

import logging
import os

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
logging.getLogger("lm_eval").setLevel(logging.ERROR)
# accelerate imports DeepSpeed where it is installed, which then tells standard output about its choice of device.
logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)

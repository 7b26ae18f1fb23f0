"""Tasks, finetuning, evaluation and generation with Hugging Face models, with pauses in every prompt.

Importing it switches off the progress bars and advice of the libraries, unless the environment sets them. The libraries
read these variables when they are first imported.
"""

import logging
import os

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
logging.getLogger("lm_eval").setLevel(logging.ERROR)
# accelerate imports DeepSpeed if it is installed, which prints its choice of device to standard output.
logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)

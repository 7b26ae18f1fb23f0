"""Conversion between checkpoints and Hugging Face folders, each checked by comparing the logits of both models.

Importing it switches off the progress bars and advice of the libraries, unless the environment sets them. The libraries
read these variables when they are first imported.
"""

import logging
import os

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
logging.getLogger("accelerate").setLevel(logging.ERROR)  # it warns of weights that stay on disk, as the proof asks for

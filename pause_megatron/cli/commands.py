"""Table of all commands. It names modules instead of importing them, so that ``--help`` answers at once."""

from contextlib import nullcontext
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from pause_megatron.light_imports import openmp_sleeps, without_collection
from pause_megatron.log import quiet_libraries

_HUGGING_FACE = ("pause_megatron.conversion.", "pause_megatron.downstream.")
"""Packages whose functions import Hugging Face's libraries."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: its configuration class and the function that runs it, as references to import."""

    summary: str
    """One line for the list of commands."""
    config: str
    """``module:Class`` of the frozen dataclass that defines the flags."""
    function: str
    """``module:function`` that runs the command; its only argument is the configuration."""
    distributed: bool = False
    """Whether a launcher may start several ranks of it. Only rank 0 then reports an error of the user."""
    saves_when_asked: bool = False
    """Whether it saves and stops after SIGTERM or SIGUSR1. The signals are blocked until it can handle them."""
    shares_cores: bool = False
    """Whether it hashes and writes in threads while it computes. Those of OpenMP then sleep when they wait; by default
    they occupy a core, which the others need."""

    def config_class(self) -> type:
        """Import and return the configuration class."""
        found: type = resolve_name(self.config)
        return found

    def run(self, config: Any) -> None:
        """Import the command's function and call it; commands that use Hugging Face's libraries keep those quiet."""
        if self.function.startswith(_HUGGING_FACE):
            quiet_libraries()
        with without_collection(), openmp_sleeps() if self.shares_cores else nullcontext():
            function = resolve_name(self.function)
        function(config)


SUBCOMMANDS: dict[str, Command] = {
    "tokenizer": Command(
        summary="train a tokenizer with <pause>, or add <pause> to an existing one",
        config="pause_megatron.config.tokenizer:TokenizerConfig",
        function="pause_megatron.tokenizer.make_tokenizer:make_tokenizer",
    ),
    "preprocess": Command(
        summary="convert C4 text to Megatron datasets that contain the pauses",
        config="pause_megatron.config.preprocess:PreprocessConfig",
        function="pause_megatron.preprocess.run:preprocess",
    ),
    "merge-datasets": Command(
        summary="merge the shards of preprocessed datasets into one or a few pairs of files",
        config="pause_megatron.config.dataset:MergeDatasetsConfig",
        function="pause_megatron.preprocess.merge:merge_datasets",
    ),
    "verify-dataset": Command(
        summary="check a dataset against its manifest, its settings and the dataset without pauses",
        config="pause_megatron.config.dataset:VerifyDatasetConfig",
        function="pause_megatron.preprocess.verification.verify_dataset:verify_dataset",
    ),
    "inspect-dataset": Command(
        summary="show statistics of a dataset, sequences with pauses and loss mask, and a histogram",
        config="pause_megatron.config.dataset:InspectDatasetConfig",
        function="pause_megatron.preprocess.inspection.inspect_dataset:inspect_dataset",
    ),
    "pretrain": Command(
        summary="pretrain a GPT with Megatron-core and DeepSpeed",
        config="pause_megatron.config.pretrain:PretrainConfig",
        function="pause_megatron.training.pretrain:pretrain",
        distributed=True,
        saves_when_asked=True,
    ),
    "convert-to-hf": Command(
        summary="convert a checkpoint to a Hugging Face folder, verified by logits",
        config="pause_megatron.config.conversion:ConvertToHfConfig",
        function="pause_megatron.conversion.to_hf:convert_to_hf",
        shares_cores=True,
    ),
    "convert-from-hf": Command(
        summary="convert a Hugging Face model to a checkpoint with <pause>, verified by logits",
        config="pause_megatron.config.conversion:ConvertFromHfConfig",
        function="pause_megatron.conversion.from_hf:convert_from_hf",
        shares_cores=True,
    ),
    "generate-task": Command(
        summary="write the records of a small generated task: parity, lookup or 3sum",
        config="pause_megatron.config.generated_tasks:GenerateTaskConfig",
        function="pause_megatron.downstream.generated_tasks:generate_task",
    ),
    "finetune": Command(
        summary="finetune an exported model on a task, with or without pauses",
        config="pause_megatron.config.downstream:FinetuneConfig",
        function="pause_megatron.downstream.finetune:finetune",
        distributed=True,
    ),
    "evaluate": Command(
        summary="evaluate a model on a task with lm-evaluation-harness, with pauses before the answer",
        config="pause_megatron.config.downstream:EvaluateConfig",
        function="pause_megatron.downstream.evaluate:evaluate",
    ),
    "generate": Command(
        summary="continue a prompt after a number of pauses",
        config="pause_megatron.config.downstream:GenerateConfig",
        function="pause_megatron.downstream.generation:generate_command",
    ),
    "bake": Command(
        summary="copy a model with a tokenizer that pauses, for servers and other programs",
        config="pause_megatron.config.serving:BakeConfig",
        function="pause_megatron.downstream.bake:bake",
    ),
    "diagnose": Command(
        summary="measure attention, predictions and answers at the pauses of a model",
        config="pause_megatron.config.diagnosis:DiagnoseConfig",
        function="pause_megatron.downstream.diagnosis.diagnose:diagnose",
    ),
    "grid": Command(
        summary="finetune and evaluate models on many tasks, pause counts and seeds",
        config="pause_megatron.config.experiments:GridConfig",
        function="pause_megatron.experiments.grid:run_grid",
    ),
    "reproduce": Command(
        summary="repeat a published small experiment, next to its published numbers",
        config="pause_megatron.config.reproductions:ReproduceConfig",
        function="pause_megatron.experiments.reproduce:run_reproduction",
    ),
    "slurm-scripts": Command(
        summary="write the batch scripts for Slurm to a folder",
        config="pause_megatron.config.slurm_scripts:SlurmScriptsConfig",
        function="pause_megatron.experiments.slurm_scripts:write_slurm_scripts",
    ),
    "report": Command(
        summary="write report.html and report.md from training runs and evaluation results",
        config="pause_megatron.config.report:ReportConfig",
        function="pause_megatron.report.write:write_report",
    ),
    "doctor": Command(
        summary="check that this machine trains, finetunes and generates correctly",
        config="pause_megatron.config.doctor:DoctorConfig",
        function="pause_megatron.doctor.run:run_doctor",
        distributed=True,
    ),
    "demo": Command(
        summary="run all steps at small size, from raw text to a report",
        config="pause_megatron.config.experiments:DemoConfig",
        function="pause_megatron.experiments.demo:run_demo",
    ),
}

TOOLS: dict[str, Command] = {
    "preprocess_c4.py": SUBCOMMANDS["preprocess"],
    "inspect_dataset.py": SUBCOMMANDS["inspect-dataset"],
    "convert_to_hf.py": SUBCOMMANDS["convert-to-hf"],
    "convert_from_hf.py": SUBCOMMANDS["convert-from-hf"],
}
"""Scripts of ``tools/``: the same commands, for launchers and batch systems that start a file."""

COMMANDS = SUBCOMMANDS | TOOLS
"""All commands and scripts by name."""

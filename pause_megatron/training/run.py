"""One process's share of a pretraining run: next batch, step, log, validate, save."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from megatron.core import parallel_state

from pause_megatron import log
from pause_megatron.atomic import write_json
from pause_megatron.checkpoint.deepspeed_state import optimizer_step
from pause_megatron.checkpoint.format import latest_checkpoint
from pause_megatron.checkpoint.load import load_checkpoint
from pause_megatron.checkpoint.names import CHECKPOINTS
from pause_megatron.checkpoint.save import save_checkpoint, sweep_unfinished
from pause_megatron.config.deepspeed import DeepSpeedFile
from pause_megatron.config.parallel import Layout
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.data.batches import Microbatch, microbatches
from pause_megatron.data.blend import StoredOrder, TrainingData
from pause_megatron.data.folders import DataFolder
from pause_megatron.data.opening import open_folders
from pause_megatron.data.samples import Sample
from pause_megatron.errors import UserError
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.groups import device
from pause_megatron.parallel.launcher import Launch
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.training.engine import DTYPES, build_engine
from pause_megatron.training.loss import Losses
from pause_megatron.training.schedule import BatchSchedule, learning_rate
from pause_megatron.training.state import describe_data, refuse_another_run, run_state, strategy
from pause_megatron.training.step import Stepper
from pause_megatron.training.watching.metrics import RUN_FILE, RUN_FORMAT, Metrics
from pause_megatron.training.watching.pause_embedding import PauseEmbedding
from pause_megatron.versions import versions

WEIGHTED_MEAN = "weighted mean"
"""What results call the mean over all held-out datasets."""


class PretrainRun:
    """One process's share of a pretraining run."""

    def __init__(
        self,
        config: PretrainConfig,
        launch: Launch,
        layout: Layout,
        deepspeed_file: DeepSpeedFile,
        tokenizer: PauseTokenizer,
        training_data: Sequence[DataFolder],
        validation_data: Sequence[DataFolder],
    ) -> None:
        self.config = config
        self.layout = layout
        self.tokenizer = tokenizer
        self.data = TrainingData(
            open_folders(training_data, seed=config.training.seed, cache=config.index_cache, launch=launch),
            config.training.seed,
        )
        self.validation = [
            StoredOrder(dataset, config.training.validation_sequences)
            for dataset in open_folders(validation_data, seed=None, cache=config.index_cache, launch=launch)
        ]
        self.iteration = 0
        self.batches = BatchSchedule(config.training)
        self.is_rank_0 = launch.rank == 0
        self.checkpoints = config.output / CHECKPOINTS
        self.model = build_local_model(
            config.model,
            layout,
            vocab_size=tokenizer.vocab_size,
            seed=config.training.seed,
            dtype=DTYPES[deepspeed_file.precision],
        )
        self.engine = build_engine(
            self.model, deepspeed_file=deepspeed_file, optimizer=config.optimizer, training=config.training
        )
        self.stepper = Stepper(self.model, self.engine, layout, device())
        if self.is_rank_0:
            self._write_run_file(launch)
            sweep_unfinished(self.checkpoints)
        self.metrics = Metrics(
            config,
            layout=layout,
            seq_length=self.data.seq_length,
            pause_embedding=PauseEmbedding(
                self.model, self.engine, pause_id=tokenizer.pause_id, vocab_size=tokenizer.vocab_size
            ),
        )

    def resume(self) -> None:
        """Continue from the newest checkpoint, if there is one.

        Raises :class:`UserError` when it is damaged or of another run.
        """
        folder = latest_checkpoint(self.config.output)
        if folder is None:
            return
        state = load_checkpoint(folder, parameters=self.model.parameters, engine=self.engine)
        refuse_another_run(state, self.config, self.tokenizer, self.data, folder)
        self.iteration = state["iteration"]
        self.metrics.resume(folder, state)

    def train(self) -> None:
        """Step until ``train_iters``; log, validate and save on the way and at the end."""
        training = self.config.training
        self.metrics.start()
        while self.iteration < training.train_iters:
            rate = learning_rate(self.iteration, training.train_iters, self.config.optimizer)
            batch_size = self.batches.batch_size(self.iteration)
            losses = self.stepper.accumulate(self._batch(self.data, self.consumed_samples, batch_size))
            if not math.isfinite(losses.mean):
                raise UserError(
                    f"the loss is {losses.mean} at iteration {self.iteration + 1}; no weight was changed by it."
                    " Continue from the last checkpoint with a lower --learning-rate"
                )
            update = self.stepper.update(rate)
            self.iteration += 1
            self.metrics.count(losses, update, batch_size)
            if self._is_due(self.config.logging.log_interval):
                self.metrics.log_training(self.iteration, self.consumed_samples, rate)
            with self.metrics.paused():
                if self._is_due(training.validation_interval):
                    self.validate()
                if self._is_due(self.config.checkpoint.save_interval):
                    self.save()
        self.metrics.close()
        log.info(f"done: {self.iteration} iterations, newest checkpoint {latest_checkpoint(self.config.output)}")

    @property
    def consumed_samples(self) -> int:
        """Training sequences seen so far."""
        return self.batches.consumed_samples(self.iteration)

    def validate(self) -> None:
        """Report the mean loss over the real targets of each held-out dataset, and of all by their weights."""
        sources = [dataset.source for dataset in self.validation]
        found = [self._validate(dataset) for dataset in self.validation]
        for source, losses in zip(sources, found, strict=True):
            self.metrics.log_validation(self.iteration, source.name, source.manifest.strategy, losses)
        if weights := [source.weight for source in sources if source.weight is not None]:
            mean = statistics.fmean((losses.mean for losses in found), weights=weights)
            targets = sum(losses.targets for losses in found)
            self.metrics.log_mean_validation(self.iteration, WEIGHTED_MEAN, strategy(sources), mean, targets)

    def _validate(self, dataset: StoredOrder) -> Losses:
        """The losses over the real targets of ``dataset``."""
        losses, batch_size = Losses(), self.config.training.global_batch_size
        for start in range(0, len(dataset), batch_size):
            losses += self.stepper.validate(self._batch(dataset, start, batch_size))
        return losses

    def save(self) -> None:
        """Write a checkpoint."""
        state = run_state(
            self.config,
            tokenizer=self.tokenizer,
            data=self.data,
            layout=str(self.layout),
            iteration=self.iteration,
            consumed_samples=self.consumed_samples,
            optimizer_step=optimizer_step(self.engine),
            real_tokens=self.metrics.real_tokens,
            pause_tokens=self.metrics.pause_tokens,
        )
        path = save_checkpoint(
            self.checkpoints,
            self.iteration,
            parameters=self.model.parameters,
            engine=self.engine,
            state=state,
            keep=self.config.checkpoint.keep_checkpoints,
        )
        log.info(f"iteration {self.iteration:>6}  saved {path}")

    def _is_due(self, interval: int) -> bool:
        return self.iteration % interval == 0 or self.iteration == self.config.training.train_iters

    def _batch(self, sample_at: Callable[[int], Sample], start: int, size: int) -> list[Microbatch]:
        training = self.config.training
        return list(
            microbatches(
                sample_at,
                pause_id=self.tokenizer.pause_id,
                start=start,
                num_microbatches=training.num_microbatches(self.layout.dp, size),
                micro_batch_size=training.micro_batch_size,
                data_parallel_rank=parallel_state.get_data_parallel_rank(),
                data_parallel_size=self.layout.dp,
                device=self.stepper.device,
            )
        )

    def _write_run_file(self, launch: Launch) -> None:
        parameters = self.config.model.num_parameters(self.tokenizer.vocab_size)
        dataset = describe_data(self.data)
        log.info(
            f"{self.config.output.name}: {parameters:,} parameters, {self.layout},"
            f" ZeRO-{self.engine.zero_optimization_stage()}, launched by {launch.launcher}"
        )
        log.info(f"{len(self.data):,} sequences of {self.data.seq_length} tokens, pauses: {dataset['strategy']}")
        write_json(
            self.config.output / RUN_FILE,
            {
                "format": RUN_FORMAT,
                "name": self.config.output.name,
                "config": to_plain(self.config),
                "versions": versions(),
                "dataset": dataset,
                "parameters": parameters,
                "world_size": launch.world_size,
                "zero_stage": self.engine.zero_optimization_stage(),
            },
        )

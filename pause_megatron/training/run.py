"""Training loop of a pretraining run on one rank: next batch, step, log, validate, save.

All ranks must act alike at the same step. Some facts only one rank knows, for example that it received a signal or is
still writing a checkpoint. Each step shares them along with its loss.
"""

from pathlib import Path

import torch
from megatron.core import parallel_state

from pause_megatron import log
from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_name
from pause_megatron.checkpoint.load import load_weights, resume_from_newest
from pause_megatron.checkpoint.saver import CheckpointSaver
from pause_megatron.config.deepspeed import TORCH_DTYPES
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.data.batch_loader import BatchLoader
from pause_megatron.data.datasets import open_datasets
from pause_megatron.data.sample_order import TrainingData, ValidationData
from pause_megatron.data.sample_origins import find_origins_together
from pause_megatron.engine.build import build_engine
from pause_megatron.errors import UserError
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.collectives import max_over_ranks, raise_on_all_ranks, run_on_rank_0
from pause_megatron.parallel.launcher import Launch
from pause_megatron.parallel.process_device import device
from pause_megatron.pauses.pause_ids import ids_of_filler
from pause_megatron.records.checkpoint_state import CheckpointState
from pause_megatron.records.pretraining import DeviceRecord
from pause_megatron.training.bad_batches import BatchDecision, BatchJudge
from pause_megatron.training.inputs import PretrainInputs
from pause_megatron.training.loss import Losses
from pause_megatron.training.metrics.pause_embedding import PauseEmbedding
from pause_megatron.training.metrics.run_metrics import Metrics
from pause_megatron.training.run_folder import path_to_here, write_run_file
from pause_megatron.training.schedule import BatchSchedule, learning_rate
from pause_megatron.training.state import checkpoint_data, refuse_another_run
from pause_megatron.training.step import Stepper
from pause_megatron.training.step_report import Flags
from pause_megatron.training.stop_requests import StopRequests, stopped_early
from pause_megatron.training.validation import Validation, validation_batch_size
from pause_megatron.versions import versions


class PretrainRun:
    """A pretraining run on one rank."""

    def __init__(
        self, config: PretrainConfig, launch: Launch, inputs: PretrainInputs, stop: StopRequests, devices: DeviceRecord
    ) -> None:
        self.config = config
        self.devices = devices
        self.inputs = inputs
        self.generation = inputs.generation
        self.stop = stop
        self.iteration = 0
        self.saved_iteration = 0
        self.validated_iteration = 0
        self.unreadable = ""
        self.batches = BatchSchedule(config.training)
        self.judge = BatchJudge(config.faults)
        self._open_data(launch)
        self._stop_if_requested()
        self._build(launch)
        self._stop_if_requested()

    def _open_data(self, launch: Launch) -> None:
        training, cache = self.config.training, self.config.index_cache
        self.data = TrainingData(
            open_datasets(self.inputs.training_data, seed=training.seed, cache=cache, launch=launch), training.seed
        )
        self.validation = Validation(
            open_datasets(self.inputs.validation_data, seed=None, cache=cache, launch=launch),
            sequences=training.validation_sequences,
            batch_size=validation_batch_size(training, self.inputs.layout),
        )

    def _build(self, launch: Launch) -> None:
        config, tokenizer, filler = self.config, self.inputs.tokenizer, self.config.training.filler
        layout, file = self.inputs.layout, self.inputs.deepspeed_file
        model = build_local_model(
            config.model,
            layout,
            vocab_size=tokenizer.vocab_size,
            seed=config.training.seed,
            dtype=getattr(torch, TORCH_DTYPES[file.precision]),
        )
        engine = build_engine(model, deepspeed_file=file, optimizer=config.optimizer, training=config.training)
        self.model, self.engine = model, engine
        self.stepper = Stepper(model, engine, layout, device())
        self.loader = BatchLoader(
            pause_ids=tokenizer.pause_ids,
            micro_batch_size=config.training.micro_batch_size,
            data_parallel_rank=parallel_state.get_data_parallel_rank(),
            data_parallel_size=layout.dp,
            device=device(),
            repeats_tokens=config.training.pause_inputs == "repeat",
            filler=() if filler is None else ids_of_filler(filler, tokenizer.encode, tokenizer.vocab_size),
            shares_positions=config.model.shares_positions,
        )
        self.saver = CheckpointSaver(
            config.output / CHECKPOINTS,
            config.checkpoint,
            parameters=model.parameters,
            engine=engine,
            tokenizer=self.inputs.tokenizer_files,
        )
        run_on_rank_0(lambda: write_run_file(config, launch, self.inputs, self.data, self.devices))
        self.metrics = Metrics(
            config,
            self.inputs,
            {
                name: PauseEmbedding(model, engine, pause_id=pause_id, vocab_size=tokenizer.vocab_size)
                for name, pause_id in zip(tokenizer.pause_names, tokenizer.pause_ids, strict=True)
            },
        )

    def resume(self) -> None:
        """Resume from the newest complete checkpoint, or load the initial weights if there is no checkpoint.

        Raises :class:`UserError` when no checkpoint is complete, or when the newest is of another run.
        """
        config = self.config
        found = resume_from_newest(config.output, parameters=self.model.parameters, engine=self.engine)
        if found is None:
            self._load_initial_weights()
            return
        folder, saved = found
        state = CheckpointState.read(saved, folder)
        refuse_another_run(state, config, self.inputs.tokenizer, self.data, folder)
        self.iteration = self.saved_iteration = state.iteration
        self.validated_iteration = state.validated_iteration or 0
        self.generation = state.generation or self.generation
        self.judge.restore(state.bad_batches)
        self.metrics.resume(folder, state)
        self._stop_if_requested()

    def _load_initial_weights(self) -> None:
        if path := self.inputs.initial_checkpoint:
            load_weights(path, parameters=self.model.parameters, engine=self.engine)
            log.info(f"loaded initial weights from {path}")
            self._stop_if_requested()

    def train(self) -> None:
        """Train until ``train_iters``; log, validate and save at their intervals and at the end.

        Raises :class:`StoppedEarly` after saving when a stop was requested, and :class:`UserError` before the optimizer
        moves when a batch is bad.
        """
        config = self.config
        self.metrics.start()
        with self.metrics.paused():
            self._validate_if_due()  # a stop may have interrupted the last validation
        while self.iteration < config.training.train_iters:
            flags = self._step()
            with self.metrics.paused():
                if self._is_due(config.training.validation_interval) or self._is_due(config.checkpoint.save_interval):
                    self._validate_if_due()
                    if self._is_due(self.config.checkpoint.save_interval):
                        self._save()
                    flags = self._agree()  # this took long: the flags of the step are old
                self.saver.poll(flags.unfinished)
                self._stop_on(flags.request)
        self.saver.wait()
        log.info(f"done: {self.iteration} iterations, newest checkpoint {self._newest_checkpoint}")

    @property
    def consumed_samples(self) -> int:
        """Training sequences before the next step."""
        return self.batches.consumed_samples(self.iteration)

    def _step(self) -> Flags:
        """Train on the next batch, or skip it if it is bad; return the flags that all ranks agreed on."""
        rate = learning_rate(self.iteration, self.config.training.train_iters, self.config.optimizer)
        start, size = self.consumed_samples, self.batches.batch_size(self.iteration)
        batch, self.unreadable = self.loader.load_or_blank(self.data, start, size)
        if self.iteration + 1 < self.config.training.train_iters:
            self.loader.announce(self.data, start + size, self.batches.batch_size(self.iteration + 1))
        report = self.stepper.accumulate(batch, self._flags)
        self._stop_if_unreadable(report.flags)
        loss, update = report.losses.mean, None
        decision = self.judge.of_loss(loss)
        if not decision.is_bad:
            is_scaled = self.inputs.deepspeed_file.precision == "fp16"
            decision = self.judge.of_gradient(loss, self.stepper.grad_norm, is_scaled=is_scaled)
        if decision.is_bad:
            self.stepper.discard()
            self._report_bad_batch(decision, start, size)
        else:
            update = self.stepper.update(rate)
        self.iteration += 1
        self.metrics.count(report.losses, update, size)
        if self._is_due(self.config.logging.log_interval):
            self.metrics.log_training(self.iteration, self.consumed_samples, rate)
        return report.flags

    @property
    def _flags(self) -> Flags:
        """The flags of this rank."""
        unreadable = int(bool(self.unreadable))
        return Flags(request=self.stop.request, unfinished=self.saver.unfinished, unreadable=unreadable)

    def _stop_if_unreadable(self, flags: Flags) -> None:
        """If a rank could not read its part of the batch, save the state before the step and raise on every rank."""
        if flags.unreadable:
            self._save_last()
            raise_on_all_ranks(self.unreadable)

    def _report_bad_batch(self, decision: BatchDecision, start: int, size: int) -> None:
        """Report the documents of a bad batch; stop the run, after saving, if that is the decision."""
        located = [self.data.locate(position) for position in range(start, start + size)]
        documents = [str(part) for origin in find_origins_together(self.data.datasets, located) for part in origin]
        self.metrics.log_bad_batch(self.iteration + 1, decision.reason, documents)
        message = f"iteration {self.iteration + 1}: {decision.describe(documents)}"
        if not decision.stops_run:
            log.warn(message)
            return
        self._save_last()
        raise UserError(
            f"{message} (all of them in metrics.jsonl); resume with --on-bad-batch skip to skip such batches, or with a"
            " lower --learning-rate"
        )

    def _validate_if_due(self) -> None:
        due = self.iteration > self.validated_iteration and self._is_due(self.config.training.validation_interval)
        if due:
            found = self.validation.measure(self._validate)
            self.validation.report(found, self.metrics, self.iteration)
            self.validated_iteration = self.iteration

    def _validate(self, data: ValidationData, start: int, size: int) -> Losses:
        """Validate on the ``size`` samples of ``data`` from ``start`` on; stop the run if that was requested."""
        batch, self.unreadable = self.loader.load_or_blank(data, start, size)
        if start + size < len(data):
            self.loader.announce(data, start + size, size)
        report = self.stepper.validate(batch, self._flags)
        self._stop_if_unreadable(report.flags)
        self._stop_on(report.flags.request)
        return report.losses

    def _save(self) -> None:
        """Write a checkpoint, or start to with --async-save."""
        self.engine.updater.wait()  # the run may end after this, and must not leave a collective behind
        state = CheckpointState(
            iteration=self.iteration,
            consumed_samples=self.consumed_samples,
            validated_iteration=self.validated_iteration,
            bad_batches=self.judge.recent,
            real_tokens=self.metrics.real_tokens,
            pause_tokens=self.metrics.pause_tokens,
            layout=str(self.inputs.layout),
            vocab_size=self.inputs.tokenizer.vocab_size,
            tokenizer_sha256=self.inputs.tokenizer.sha256,
            dataset=checkpoint_data(self.data),
            config=to_plain(self.config),
            directory=path_to_here(self.config.output / CHECKPOINTS / checkpoint_name(self.iteration)),
            generation=self.generation,
            versions=versions(),
            devices=self.devices,
        )
        self.saver.save(self.iteration, state.to_plain())
        self.saved_iteration = self.iteration

    def _save_last(self) -> None:
        """Save unless this iteration is saved, and wait until the checkpoint is complete."""
        if self.iteration > self.saved_iteration:
            self._save()
        self.saver.wait()

    def _agree(self) -> Flags:
        """Return the flags of all ranks; between steps, where no report shares them."""
        request, unfinished = max_over_ranks([self._flags.request, self._flags.unfinished])
        return Flags(request=request, unfinished=unfinished)

    def _stop_if_requested(self) -> None:
        # During startup.
        [request] = max_over_ranks([self.stop.request])
        self._stop_on(request)

    def _stop_on(self, request: int) -> None:
        if not request or self.iteration == self.config.training.train_iters:
            return
        if self.iteration > self.saved_iteration:
            self._save()
        if self.saved_iteration:
            self.saver.wait()
        raise stopped_early(request, iteration=self.iteration, checkpoint=self._newest_checkpoint)

    @property
    def _newest_checkpoint(self) -> Path | None:
        name = checkpoint_name(self.saved_iteration)
        return self.config.output / CHECKPOINTS / name if self.saved_iteration else None

    def _is_due(self, interval: int) -> bool:
        return self.iteration % interval == 0 or self.iteration == self.config.training.train_iters

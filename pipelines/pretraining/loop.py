"""Training loop: step, log, evaluate, save."""

import importlib.util
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed

from dataset_builders.errors import ReportedError
from dataset_builders.files import atomic_path, locked, write_json

from ..common.errors import InputError
from . import checkpoint as ckpt
from .arguments import FREE_ARGUMENTS, PretrainingArguments
from .batches import BatchPlan, PairBatches, batch_loader
from .data import read_pairs
from .log import TRACKER, RunLog
from .model import build_model, compile_towers, count_parameters, enable_checkpointing
from .step import Student, adamw, distillation_weight_at, learning_rate_at, train_step
from .validation import validate


class DivergedError(ReportedError, FloatingPointError):
    """The loss is not finite."""

    exit_code = 1


def pretrain(args: PretrainingArguments) -> dict[str, Any]:
    """Pretrain a model, resuming from the latest checkpoint in the output folder.

    Args:
        args: See `train.py --help`.

    Returns:
        The summary written to training_summary.json.

    Raises:
        InputError: If an argument, checkpoint or dataset is invalid.
        InUseError: If another run writes to the output folder.
        DivergedError: If the loss is not finite.
    """
    output_dir = Path(args.run.output_dir)
    ckpt.check_output_dir(output_dir)
    is_first = os.environ.get("RANK", "0") == "0"  # the first process holds the lock
    with locked(output_dir) if is_first else nullcontext():
        return Pretrainer(args).run()


class Pretrainer:
    """Model, data and training state of a run.

    Args:
        args: See `train.py --help`.
    """

    def __init__(self, args: PretrainingArguments):
        self.args = args
        self.output_dir = Path(args.run.output_dir)
        self.accelerator = self._make_accelerator()
        self.device = self.accelerator.device
        self.log = RunLog(self.accelerator, self.output_dir / ckpt.METRICS_FILE)
        self._prepare_output_dir()

        model, self.processor = build_model(args.model, args.run.seed)
        text_config: Any = model.config.text_config
        with self.accelerator.main_process_first():  # other processes read the cache
            self.pairs = read_pairs(
                args.data,
                self.processor.tokenizer,
                text_config.max_position_embeddings,
                args.run.seed,
            )
        optimization = args.optimization
        self.plan = BatchPlan(
            indices=self.pairs.train,
            num_tokens=self.pairs.num_tokens[self.pairs.train],
            batch_size=optimization.per_device_train_batch_size,
            world_size=self.accelerator.num_processes,
            accumulation=optimization.gradient_accumulation_steps,
            seed=args.run.seed,
            group_by_length=args.data.group_by_length,
            epoch_num_tokens=self._epoch_num_tokens if self.pairs.candidates else None,
        )
        self.steps_per_epoch = self.plan.steps_per_epoch
        self.max_steps = (
            optimization.max_train_steps or optimization.num_train_epochs * self.steps_per_epoch
        )
        self.warmup_steps = optimization.warmup_steps or round(
            optimization.warmup_ratio * self.max_steps
        )
        self._prepare_model(model)
        self.state = ckpt.TrainingState(0, None, None, 0.0, self._identity())
        self.sums: dict[str, torch.Tensor] = {}  # of the losses since the last log
        self.seconds_per_step = 0.0
        self.stop_signal = False

    def run(self) -> dict[str, Any]:
        """Train until the last step or, in the main thread, SIGTERM; return the summary."""
        self._resume()
        self._write_inputs()
        self._announce()
        if self.state.step == 0 and len(self.pairs.validation):
            self.log.record({"step": 0, "epoch": 0.0, **self._validate()})
        with self._stopping_on_sigterm():
            stopped = self._train()
        return self._finish(stopped)

    # ---- the loop -------------------------------------------------------------------------

    def _train(self) -> bool:
        """Return whether training stopped before the last step."""
        run, state = self.args.run, self.state
        batches = self._batches()
        self.student.wrapped.train()
        clock, since = time.perf_counter(), state.step
        for step in self.log.steps(state.step, self.max_steps):
            self._step(step, batches)
            state.step = step + 1

            last, logged = state.step == self.max_steps, self._due(run.logging_steps)
            evaluated = self._due(run.eval_steps or self.steps_per_epoch) or last
            saved = self._due(run.checkpointing_steps or self.steps_per_epoch) or last
            if logged or evaluated or saved:
                elapsed, clock = time.perf_counter() - clock, time.perf_counter()
                state.seconds += elapsed
                self.seconds_per_step = elapsed / max(1, state.step - since)
                since = state.step
            if logged:
                self._log_step(step)
            if evaluated and len(self.pairs.validation):
                self._evaluate()
            stopping = self._agree_to_stop(logged) and not last
            if saved or stopping:
                self._save_checkpoint()
            if stopping:
                break
            if evaluated or saved:
                clock = time.perf_counter()
        return state.step < self.max_steps

    def _step(self, step: int, batches: Iterator[dict[str, torch.Tensor]]) -> None:
        """Optimizer step, without device synchronisation."""
        optimization = self.args.optimization
        window = [next(batches) for _ in range(optimization.gradient_accumulation_steps)]
        metrics = train_step(
            self.accelerator,
            self.student,
            self.optimizer,
            [{n: v.to(self.device, non_blocking=True) for n, v in b.items()} for b in window],
            **self._schedules(step),
            max_grad_norm=optimization.max_grad_norm,
            gradient_caching=optimization.gradient_caching,
        )
        for name, value in {**metrics, "steps": torch.ones((), device=self.device)}.items():
            self.sums[name] = self.sums.get(name, 0) + value

    def _log_step(self, step: int) -> None:
        """Record the mean losses since the last log; the loop's only device synchronisation."""
        names = list(self.sums)
        means = torch.stack([self.sums[name] for name in names]) / self.sums["steps"]
        values = dict(zip(names, self.accelerator.reduce(means, "mean").tolist(), strict=True))
        del values["steps"]
        self.sums = {}
        if not math.isfinite(values["loss"]):
            raise DivergedError(
                f"The loss is {values['loss']} at step {self.state.step}. Try a lower "
                "--learning_rate, more --warmup_steps or --mixed_precision bf16 instead of fp16."
            )
        self.log.record_losses(
            {
                **self._position(),
                **values,
                "logit_scale": self.student.model.logit_scale.exp().item(),
                **self._schedules(step),
                "images_per_second": round(self.plan.step_size / self.seconds_per_step, 2),
            }
        )

    def _evaluate(self) -> None:
        metrics, best = self._validate(), self.state.best_metric
        improved = best is None or metrics["mean_recall"] > best
        self.log.record_retrieval({**self._position(), **metrics}, improved)
        if improved:
            self.state.best_metric = metrics["mean_recall"]
            self.state.best_step = self.state.step
            self._publish()

    def _validate(self) -> dict[str, float]:
        return validate(
            self.accelerator,
            self.student.model,
            PairBatches(self.pairs, self.processor, self.args.data.pad_to_multiple_of),
            self.args.optimization.per_device_eval_batch_size,
            self.args.data.dataloader_num_workers,
        )

    def _batches(self) -> Iterator[dict[str, torch.Tensor]]:
        args = self.args
        batches = PairBatches(
            self.pairs,
            self.processor,
            args.data.pad_to_multiple_of,
            args.run.seed,
            args.data.shuffle_sentences,
            args.data.short_caption_probability,
        )
        rank = self.accelerator.process_index
        plan = self.plan.process_batches(rank, self.state.step, self.max_steps)
        workers = args.data.dataloader_num_workers
        return iter(batch_loader(batches, plan, workers, pin_memory=self.device.type == "cuda"))

    def _epoch_num_tokens(self, epoch: int) -> np.ndarray:
        candidates = self.pairs.candidates
        assert candidates is not None
        return candidates.epoch_num_tokens(self.args.run.seed, epoch)[self.pairs.train]

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0

    def _position(self) -> dict[str, Any]:
        step = self.state.step
        return {"step": step, "epoch": round(step / self.steps_per_epoch, 4)}

    def _schedules(self, step: int) -> dict[str, float]:
        optimization, config = self.args.optimization, self.student.model.config
        return {
            "distillation_weight": distillation_weight_at(
                step,
                weight=config.distillation_weight,
                warmup_steps=config.distillation_warmup_steps,
            ),
            "learning_rate": learning_rate_at(
                step,
                peak=optimization.learning_rate,
                max_steps=self.max_steps,
                warmup_steps=self.warmup_steps,
                schedule=optimization.lr_scheduler_type,
            ),
        }

    # ---- what is written ------------------------------------------------------------------

    def _publish(self) -> None:
        if self.accelerator.is_main_process:
            model, args = self.student.model, self.args.model
            ckpt.publish(self.output_dir, model, self.processor, args, self.state.step)

    def _save_checkpoint(self) -> None:
        ckpt.save_checkpoint(
            self.output_dir,
            self.state,
            self.accelerator,
            self.student.model,
            self.optimizer,
            self.sums,
            self.args.run.save_total_limit,
        )

    def _write_inputs(self) -> None:
        if not self.accelerator.is_main_process:
            return
        with atomic_path(self.output_dir / ckpt.ARGUMENTS_FILE) as temporary:
            recipe = yaml.safe_dump(self.args.recipe(), sort_keys=False)
            temporary.write_text(recipe, encoding="utf-8")
        for name, table in (("rejects", self.pairs.rejects), ("pairs", self.pairs.listing)):
            with atomic_path(self.output_dir / f"{name}.parquet") as temporary:
                table.astype("string").to_parquet(temporary, index=False)

    def _finish(self, stopped: bool) -> dict[str, Any]:
        state, device = self.state, self.device.type
        summary = {
            "completed": not stopped,
            "steps": state.step,
            "max_steps": self.max_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "seconds": round(state.seconds, 2),
            "num_processes": self.accelerator.num_processes,
            "device": torch.cuda.get_device_name() if device == "cuda" else device,
            "best_step": state.best_step,
            "best_mean_recall": state.best_metric,
            **count_parameters(self.student.model),
            **self.pairs.summary(),
            "dataset_name": self.args.data.dataset_name,
            "tables": sorted(self.pairs.listing["table"].unique()),
            "split_column": self.args.data.split_column,
        }
        if self.accelerator.is_main_process:
            model, args = self.student.model, self.args.model
            ckpt.save_last(self.output_dir, model, self.processor, args)
            if state.best_step is None:  # no validation
                self._publish()
            write_json(self.output_dir / "training_summary.json", summary)
        if stopped:
            self.log.say(
                f"Stopped by SIGTERM after step {state.step} of {self.max_steps}; checkpoint "
                "saved. Rerun the command to resume."
            )
        else:
            self.log.say(f"Done: the model is in {self.output_dir} (best step {state.best_step}).")
        self.accelerator.end_training()
        return summary

    # ---- preparation ----------------------------------------------------------------------

    def _make_accelerator(self) -> Accelerator:
        run = self.args.run
        trackers = [name for name in run.report_to if name != "none"]
        for name in trackers:
            if importlib.util.find_spec(name) is None:
                raise InputError(f"--report_to {name} is not installed: pip install {name}.")
        return Accelerator(
            mixed_precision=self.args.optimization.mixed_precision,
            cpu=run.use_cpu or not torch.accelerator.is_available(),
            log_with=cast(Any, trackers) or None,
            project_dir=str(self.output_dir / "logs"),
            # enqueue() keeps the buffers equal in all processes
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )

    def _prepare_output_dir(self) -> None:
        if self.accelerator.is_main_process:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            ckpt.remove_unfinished(self.output_dir)
            if self.args.run.overwrite_output_dir:
                ckpt.remove_run(self.output_dir)
            for folder in ckpt.set_damaged_aside(self.output_dir):
                self.log.say(f"A checkpoint is damaged and was renamed to {folder}.")
        self.accelerator.wait_for_everyone()

    def _prepare_model(self, model: Any) -> None:
        optimization = self.args.optimization
        if optimization.gradient_checkpointing:
            enable_checkpointing(model)
        if optimization.torch_compile:
            compile_towers(model)
        model.to(self.device)
        optimizer = adamw(
            model,
            optimization.learning_rate,
            optimization.weight_decay,
            (optimization.adam_beta1, optimization.adam_beta2),
            optimization.adam_epsilon,
        )
        wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.student = Student(wrapped, model)

    def _identity(self) -> dict[str, Any]:
        """Settings and data that must be equal to resume a run."""
        values = {n: v for n, v in self.args.to_dict().items() if n not in FREE_ARGUMENTS}
        num_processes = self.accelerator.num_processes
        return {**values, "num_processes": num_processes, "pairs": self.pairs.fingerprint()}

    def _resume(self) -> None:
        named = self.args.run.resume_from_checkpoint
        found = ckpt.find_checkpoints(self.output_dir)
        folder = Path(named) if named else (found[-1] if found else None)
        set_seed(self.args.run.seed, device_specific=True)
        if folder is not None:
            state = ckpt.load_state(folder)
            ckpt.check_identity(state.identity, self.state.identity, folder)
            self._publish_again(state.best_step)
            self.state = state
            sums = self._load(folder)
            self.sums = {name: value.to(self.device) for name, value in sums.items()}
            self.log.say(f"Resuming from {folder} (step {state.step} of {self.max_steps}).")
        if self.accelerator.is_main_process:  # ours may be damaged, or have later rows
            self.log.path.unlink(missing_ok=True)
            if folder is not None and (saved := folder / ckpt.METRICS_FILE).is_file():
                shutil.copyfile(saved, self.log.path)
        self.accelerator.wait_for_everyone()

    def _load(self, folder: Path) -> dict[str, torch.Tensor]:
        model, optimizer = self.student.model, self.optimizer
        return ckpt.load_checkpoint(folder, self.accelerator, model, optimizer)

    def _publish_again(self, best: int | None) -> None:
        if folder := ckpt.mend_published(self.output_dir, best):
            self.state = ckpt.load_state(folder)
            self._load(folder)
            self._publish()
            self.log.say(f"The best model was damaged and is restored from {folder}.")

    def _announce(self) -> None:
        pairs = self.pairs.summary()
        counts = count_parameters(self.student.model)
        self.log.say(
            f"{pairs['num_train']} training and {pairs['num_validation']} validation pairs; "
            f"{pairs['num_held_out']} held out, {pairs['num_rejected']} rejected "
            f"{pairs['rejected'] or ''}\n"
            f"{pairs['num_truncated_captions']} captions ({pairs['truncation_rate']:.1%}) are "
            f"longer than {pairs['max_length']} tokens and are truncated; the longest has "
            f"{pairs['longest_caption_tokens']}\n"
            f"{counts['num_trained_parameters']:,} of {counts['num_parameters']:,} parameters are "
            f"trained, {self.max_steps} steps of {self.plan.step_size} pairs on "
            f"{self.accelerator.num_processes} x {self.device}"
        )
        config = {
            name: value if isinstance(value, (int, float, str, bool)) else str(value)
            for name, value in self.args.to_dict().items()
        }
        self.accelerator.init_trackers(TRACKER, config=config)

    # ---- stopping -------------------------------------------------------------------------

    @contextmanager
    def _stopping_on_sigterm(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return
        previous = signal.signal(signal.SIGTERM, self._ask_to_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _ask_to_stop(self, *_: Any) -> None:
        self.stop_signal = True

    def _agree_to_stop(self, synchronised: bool) -> bool:
        """Stop all processes after the same step; they synchronise when they log."""
        if self.accelerator.num_processes == 1:
            return self.stop_signal
        if not synchronised:
            return False
        asked = torch.tensor(float(self.stop_signal), device=self.device)
        return bool(self.accelerator.reduce(asked, "sum").item())


__all__ = ["Pretrainer", "pretrain"]

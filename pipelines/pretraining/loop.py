"""The training loop: step, log, evaluate, save."""

import hashlib
import importlib.util
import json
import math
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from tqdm import tqdm

from modeling_urbanln import UrbanLNForPreTraining

from . import checkpoint as ckpt
from .arguments import PretrainingArguments
from .data import PairBatches, PairTable, batch_loader, read_pairs
from .errors import InputError
from .model import build_model, compile_towers
from .optim import adamw, distillation_weight_at, learning_rate_at
from .sampling import BatchPlan
from .step import Student, train_step
from .validation import validate

# of a log line: short name, name in metrics.jsonl, decimals
SHOWN_METRICS = (
    ("loss", "loss", 3),
    ("L_C", "contrastive_loss", 3),
    ("L_D", "distillation_loss", 3),
    ("scale", "logit_scale", 1),
    ("entropy", "target_entropy", 2),
    ("images/s", "images_per_second", 1),
)
# what may change between the parts of a run without changing its course
FREE_ARGUMENTS = (
    "caption_sampling",  # what it draws from is compared instead
    "checkpointing_steps",
    "config",
    "dataloader_num_workers",
    "dataset_name",  # its content is compared instead
    "eval_steps",
    "logging_steps",
    "output_dir",
    "overwrite_output_dir",
    "per_device_eval_batch_size",
    "report_to",
    "resume_from_checkpoint",
    "save_total_limit",
    "torch_compile",
    "use_cpu",
)


def pretrain(args: PretrainingArguments) -> dict[str, Any]:
    """Train, from the start or from the last checkpoint in the output folder, and publish.

    Args:
        args: see train.py --help.

    Returns:
        The summary that is also written to training_summary.json.

    Raises:
        InputError: something given cannot be used.
        FloatingPointError: the loss is no number any more.
    """
    return Pretrainer(args).run()


class Pretrainer:
    """A run: model, data, and how far it is.

    Args:
        args: see train.py --help.
    """

    def __init__(self, args: PretrainingArguments):
        self.args = args
        self.output_dir = Path(args.run.output_dir)
        self.accelerator = _accelerator(args)
        self._prepare_output_dir()
        self.log = ckpt.MetricsLog(self.output_dir / "metrics.jsonl")
        self.device = self.accelerator.device

        model, self.processor = build_model(args.model, args.run.seed)
        text_config: Any = model.config.text_config
        with self.accelerator.main_process_first():  # the others find it in the cache
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
        self._prepare_model(model)
        self.state = ckpt.TrainingState(0, None, None, 0.0, self._identity())
        self.sums: dict[str, torch.Tensor] = {}  # of the steps since the last that was logged
        self.one = torch.ones((), device=self.device)
        self.seconds_per_step = 0.0
        self.stop_signal = False

    def run(self) -> dict[str, Any]:
        """Train to the last step, or until SIGTERM asks to stop; returns the summary."""
        self._resume()
        self._write_inputs()
        self._announce()
        if self.state.step == 0 and len(self.pairs.validation):
            self._record({"step": 0, "epoch": 0.0, **self._validate()})
        previous = _on_sigterm(self._ask_to_stop)
        try:
            stopped = self._train()
        finally:
            _on_sigterm(previous)
        return self._finish(stopped)

    # ---- the loop -------------------------------------------------------------------------

    def _train(self) -> bool:
        """Returns whether it was stopped before the last step."""
        args, state = self.args, self.state
        loader = batch_loader(
            PairBatches(
                self.pairs,
                self.processor,
                args.data.pad_to_multiple_of,
                args.run.seed if args.data.shuffle_sentences else None,
                draw_seed=args.run.seed,
            ),
            self.plan.process_batches(self.accelerator.process_index, state.step, self.max_steps),
            args.data.dataloader_num_workers,
            pin_memory=self.device.type == "cuda",
        )
        batches = iter(loader)
        bar = tqdm(
            total=self.max_steps,
            initial=state.step,
            desc="Pretraining",
            unit="step",
            disable=not self.accelerator.is_main_process or not sys.stderr.isatty(),
        )
        self.student.wrapped.train()
        clock, since = time.perf_counter(), state.step
        for step in range(state.step, self.max_steps):
            window = [
                self._to_device(next(batches))
                for _ in range(args.optimization.gradient_accumulation_steps)
            ]
            metrics = train_step(
                self.accelerator,
                self.student,
                self.optimizer,
                window,
                learning_rate=self._learning_rate(step),
                distillation_weight=self._distillation_weight(step),
                max_grad_norm=args.optimization.max_grad_norm,
                gradient_caching=args.optimization.gradient_caching,
            )
            for name, value in {**metrics, "steps": self.one}.items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value
            state.step = step + 1
            bar.update()

            last, logged = state.step == self.max_steps, self._due(args.run.logging_steps)
            evaluated = self._due(args.run.eval_steps or self.steps_per_epoch) or last
            saved = self._due(args.run.checkpointing_steps or self.steps_per_epoch) or last
            if logged or evaluated or saved:
                elapsed, clock = time.perf_counter() - clock, time.perf_counter()
                state.seconds += elapsed
                self.seconds_per_step = elapsed / max(1, state.step - since)
                since = state.step
            if logged:
                self._log_step(step, bar)
            if evaluated:
                self._evaluate(bar)
            stopping = self._agree_to_stop(logged) and not last
            if saved or stopping:
                self._save()
            if stopping:
                bar.close()
                return True
            if evaluated or saved:
                clock = time.perf_counter()
        bar.close()
        return False

    def _epoch_num_tokens(self, epoch: int) -> np.ndarray:
        candidates = self.pairs.candidates
        assert candidates is not None
        return candidates.epoch_num_tokens(self.args.run.seed, epoch)[self.pairs.train]

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0

    def _to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def _learning_rate(self, step: int) -> float:
        optimization = self.args.optimization
        warmup = optimization.warmup_steps or round(optimization.warmup_ratio * self.max_steps)
        return learning_rate_at(
            step,
            peak=optimization.learning_rate,
            max_steps=self.max_steps,
            warmup_steps=warmup,
            schedule=optimization.lr_scheduler_type,
        )

    def _distillation_weight(self, step: int) -> float:
        config = self.student.model.config
        return distillation_weight_at(
            step,
            weight=config.distillation_weight,
            warmup_steps=config.distillation_warmup_steps,
        )

    def _log_step(self, step: int, bar: tqdm) -> None:
        """The mean of the last steps; the only place where the loop waits for the device."""
        names = list(self.sums)
        means = torch.stack([self.sums[name] for name in names]) / self.sums["steps"]
        values = dict(zip(names, self.accelerator.reduce(means, "mean").tolist(), strict=True))
        del values["steps"]
        self.sums = {}
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(
                f"The loss is {values['loss']} at step {self.state.step}. A lower --learning_rate, "
                "a longer --warmup_steps or --mixed_precision bf16 in place of fp16 may help."
            )
        per_step = self.plan.global_batch_size * self.plan.accumulation
        row = {
            "step": self.state.step,
            "epoch": round(self.state.step / self.steps_per_epoch, 4),
            **values,
            "logit_scale": self.student.model.logit_scale.exp().item(),
            "distillation_weight": self._distillation_weight(step),
            "learning_rate": self._learning_rate(step),
            "images_per_second": round(per_step / self.seconds_per_step, 2),
        }
        self._record(row)
        shown = {
            short: f"{row[name]:.{digits}f}"
            for short, name, digits in SHOWN_METRICS
            if name in row  # without a teacher some are not
        }
        bar.set_postfix(shown)
        if bar.disable:
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            self._say(f"step {self.state.step}/{self.max_steps}  {text}")

    def _evaluate(self, bar: tqdm) -> None:
        """Measure retrieval; publish the model if it is the best so far."""
        if not len(self.pairs.validation):
            return
        metrics = self._validate()
        epoch = round(self.state.step / self.steps_per_epoch, 4)
        self._record({"step": self.state.step, "epoch": epoch, **metrics})
        best = self.state.best_metric
        improved = best is None or metrics["mean_recall"] > best
        with tqdm.external_write_mode(sys.stderr):
            self._say(
                f"step {self.state.step}/{self.max_steps}  validation: "
                f"image to text R@1 {metrics['image_to_text_recall_at_1']:.3f} "
                f"R@5 {metrics['image_to_text_recall_at_5']:.3f}, "
                f"text to image R@1 {metrics['text_to_image_recall_at_1']:.3f} "
                f"R@5 {metrics['text_to_image_recall_at_5']:.3f} "
                f"(chance {metrics['chance_recall_at_1']:.3f}, "
                f"{metrics['chance_recall_at_5']:.3f}){'  best so far' if improved else ''}"
            )
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

    # ---- what is written ------------------------------------------------------------------

    def _record(self, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.log.append(row)
        values = {name: value for name, value in row.items() if name != "step"}
        self.accelerator.log(values, step=row["step"])

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            print(text, file=sys.stderr, flush=True)

    def _publish(self) -> None:
        if self.accelerator.is_main_process:
            ckpt.publish(self.output_dir, self.student.model, self.processor, self.args.model)

    def _save(self) -> None:
        """Write the training state; each process adds its own part."""
        accelerator = self.accelerator
        folder = ckpt.checkpoint_folder(self.output_dir, self.state.step)
        temporary = folder.with_name(ckpt.TEMPORARY + folder.name)
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            ckpt.save_weights(temporary, self.student.model, self.optimizer, accelerator.scaler)
        accelerator.wait_for_everyone()
        ckpt.save_process_state(temporary, accelerator.process_index, self.sums)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            ckpt.save_state(temporary, self.state)
            ckpt.swap_in(temporary, folder)
            ckpt.remove_old_checkpoints(self.output_dir, self.args.run.save_total_limit)
        accelerator.wait_for_everyone()

    def _write_inputs(self) -> None:
        if not self.accelerator.is_main_process:
            return
        recipe = {
            name: value
            for name, value in self.args.to_dict().items()
            if name not in ("config", "overwrite_output_dir", "resume_from_checkpoint")
            and value is not None
        }
        ckpt.write_atomically(
            self.output_dir / ckpt.ARGUMENTS_FILE, yaml.safe_dump(recipe, sort_keys=False)
        )
        for name, table in (("rejects", self.pairs.rejects), ("pairs", self.pairs.listing)):
            temporary = self.output_dir / f"{ckpt.TEMPORARY}{name}.parquet"
            table.astype("string").to_parquet(temporary, index=False)
            temporary.replace(self.output_dir / f"{name}.parquet")

    def _finish(self, stopped: bool) -> dict[str, Any]:
        state = self.state
        summary = {
            "completed": not stopped,
            "steps": state.step,
            "max_steps": self.max_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "seconds": round(state.seconds, 2),
            "num_processes": self.accelerator.num_processes,
            "device": device_name(self.device),
            "best_step": state.best_step,
            "best_mean_recall": state.best_metric,
            **_count_parameters(self.student.model),
            **self.pairs.summary(),
            "dataset_name": self.args.data.dataset_name,
            "tables": sorted(self.pairs.listing["table"].unique()),
            "split_column": self.args.data.split_column,
        }
        if self.accelerator.is_main_process:
            with ckpt.folder_written_atomically(self.output_dir / "last") as folder:
                ckpt.save_model(folder, self.student.model, self.processor, self.args.model)
            if state.best_step is None:  # nothing to choose by
                self._publish()
            ckpt.write_atomically(
                self.output_dir / "training_summary.json", json.dumps(summary, indent=2)
            )
        if stopped:
            self._say(
                f"Stopped by SIGTERM after step {state.step} of {self.max_steps}; the state is "
                "saved. Rerun the command to resume."
            )
        else:
            self._say(f"Done: the model is in {self.output_dir} (best step {state.best_step}).")
        self.accelerator.end_training()
        return summary

    # ---- preparation ----------------------------------------------------------------------

    def _prepare_output_dir(self) -> None:
        ckpt.check_output_dir(self.output_dir)
        if self.accelerator.is_main_process:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            ckpt.remove_leftovers(self.output_dir)
            if self.args.run.overwrite_output_dir:
                ckpt.remove_run(self.output_dir)
            for folder in ckpt.set_damaged_aside(self.output_dir):
                self._say(f"A checkpoint is damaged and set aside as {folder}.")
        self.accelerator.wait_for_everyone()

    def _prepare_model(self, model: Any) -> None:
        optimization = self.args.optimization
        if optimization.gradient_checkpointing:
            # renamed in the course of transformers 5
            enable = getattr(
                model, "activation_checkpointing_enable", model.gradient_checkpointing_enable
            )
            enable({"use_reentrant": False})
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

    def _resume(self) -> None:
        named = self.args.run.resume_from_checkpoint
        found = ckpt.find_checkpoints(self.output_dir)
        folder = Path(named) if named else (found[-1] if found else None)
        set_seed(self.args.run.seed, device_specific=True)
        if folder is not None:
            state = ckpt.load_state(folder)
            ckpt.check_identity(state.identity, self.state.identity, folder)
            self.state = state
            ckpt.load_weights(folder, self.student.model, self.optimizer, self.accelerator.scaler)
            sums = ckpt.load_process_state(folder, self.accelerator.process_index)
            self.sums = {name: value.to(self.device) for name, value in sums.items()}
            self._say(f"Resuming from {folder} (step {state.step} of {self.max_steps}).")
        if self.accelerator.is_main_process:
            self.log.keep_until(self.state.step if folder is not None else None)
        self.accelerator.wait_for_everyone()

    def _identity(self) -> dict[str, Any]:
        values = self.args.to_dict()
        for name in FREE_ARGUMENTS:
            del values[name]
        values["num_processes"] = self.accelerator.num_processes
        values["pairs"] = _fingerprint(self.pairs)
        return values

    def _announce(self) -> None:
        pairs, optimization = self.pairs, self.args.optimization
        counts = _count_parameters(self.student.model)
        summary = pairs.summary()
        self._say(
            f"{summary['num_train']} training and {summary['num_validation']} validation pairs; "
            f"{summary['num_held_out']} held out, {summary['num_rejected']} rejected "
            f"{summary['rejected'] or ''}\n"
            f"{summary['num_truncated_captions']} captions ({summary['truncation_rate']:.1%}) are "
            f"longer than the model's {pairs.max_length} tokens and are cut; the longest has "
            f"{pairs.longest}\n"
            f"{counts['num_trained_parameters']:,} of {counts['num_parameters']:,} parameters are "
            f"trained, {self.max_steps} steps of "
            f"{self.plan.global_batch_size * optimization.gradient_accumulation_steps} pairs on "
            f"{self.accelerator.num_processes} x {self.device}"
        )
        config = {
            name: value if isinstance(value, (int, float, str, bool)) else str(value)
            for name, value in self.args.to_dict().items()
        }
        self.accelerator.init_trackers(ckpt.TRACKER, config=config)

    # ---- stopping -------------------------------------------------------------------------

    def _ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        self.stop_signal = True

    def _agree_to_stop(self, synchronised: bool) -> bool:
        """All processes stop after the same step; several ask one another when they log."""
        if self.accelerator.num_processes == 1:
            return self.stop_signal
        if not synchronised:
            return False
        asked = torch.tensor(float(self.stop_signal), device=self.device)
        return bool(self.accelerator.reduce(asked, "sum").item())


def _accelerator(args: PretrainingArguments) -> Accelerator:
    trackers = [name for name in args.run.report_to if name != "none"]
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--report_to {name}: it is not installed; pip install {name}.")
    without_accelerator = args.run.use_cpu or not torch.accelerator.is_available()
    return Accelerator(
        mixed_precision=args.optimization.mixed_precision,
        cpu=without_accelerator,
        log_with=cast(Any, trackers) or None,
        project_dir=str(Path(args.run.output_dir) / "logs"),
        # enqueue() leaves the same buffers everywhere: nothing to send before each forward
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def device_name(device: torch.device) -> str:
    """What a device is called by those who sell it; "cpu" for a processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _count_parameters(model: UrbanLNForPreTraining) -> dict[str, int]:
    student = [p for n, p in model.named_parameters() if not n.startswith("momentum_encoder.")]
    return {
        "num_parameters": sum(p.numel() for p in student),
        "num_trained_parameters": sum(p.numel() for p in student if p.requires_grad),
    }


def _fingerprint(pairs: PairTable) -> str:
    """Changes when the pairs do: ids, order, splits, captions."""
    digest = hashlib.sha256()
    digest.update(pairs.listing.to_csv(index=False).encode())
    for caption in pairs.captions:
        digest.update(caption.as_py().encode() + b"\0")
    if pairs.candidates is not None:
        pairs.candidates.update_digest(digest)
    return digest.hexdigest()


def _on_sigterm(handler: Any) -> Any:
    """Set the handler, where this is allowed: only the main thread of a process receives it."""
    if threading.current_thread() is threading.main_thread():
        return signal.signal(signal.SIGTERM, handler)
    return signal.SIG_DFL


__all__ = ["Pretrainer", "pretrain"]

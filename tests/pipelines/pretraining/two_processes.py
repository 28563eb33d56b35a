"""Run by torchrun: the loss and gradient of one step, with the batches shared by the processes.

torchrun --nproc_per_node 2 two_processes.py MODEL_DIR BATCHES OUT
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from safetensors.torch import load_file, save_file

from modeling_urbanln import UrbanLNForPreTraining
from pipelines.pretraining.step import Student, accumulate_gradients

NUM_BATCHES = 3


def step(model_dir: Path, batches_file: Path, gradient_caching: bool) -> dict[str, torch.Tensor]:
    """Gradients, loss parts and queue after one step, the same in every process."""
    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    model = UrbanLNForPreTraining.from_pretrained(model_dir)
    student = Student(accelerator.prepare(model), model)
    stored = load_file(batches_file)
    batches = []
    for index in range(NUM_BATCHES):
        batch = {name: value[index] for name, value in stored.items()}
        size = batch["sample_ids"].shape[0] // accelerator.num_processes
        own = slice(accelerator.process_index * size, (accelerator.process_index + 1) * size)
        batches.append({name: value[own].contiguous() for name, value in batch.items()})
    student.wrapped.train()
    losses = accumulate_gradients(accelerator, student, batches, 0.5, gradient_caching)
    result = {f"loss/{n}": accelerator.reduce(v, "mean") for n, v in losses.items()}
    result |= {f"grad/{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    result |= {f"queue/{n}": b.clone() for n, b in model.queue.named_buffers()}
    for name, value in result.items():  # every process holds the same
        others = accelerator.gather(value.flatten()[None].contiguous())
        assert torch.equal(others, others[:1].expand_as(others)), name
    return result


if __name__ == "__main__":
    folder, batches_path, out = map(Path, sys.argv[1:4])
    for caching in (False, True):
        found = step(folder, batches_path, caching)
        if Accelerator().is_main_process:
            save_file(found, out / f"caching-{caching}.safetensors")

"""One of two processes that rendezvous through a file, since a port may be in use.

python -m tests.pipelines.pretraining.two_processes MEETING RANK step MODEL_DIR BATCHES OUT
python -m tests.pipelines.pretraining.two_processes MEETING RANK train FLAGS...
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from safetensors.torch import load_file, save_file

from modeling_urbanln import UrbanLNForPreTraining
from pipelines.pretraining.step import Student, accumulate_gradients
from tests.processes import start_python

NUM_BATCHES = 3


def run_two(folder: Path, *arguments: object) -> None:
    """Run both processes to completion."""
    module = ("-m", "tests.pipelines.pretraining.two_processes")
    processes = [
        start_python(*module, folder / "meeting", rank, *arguments, output=folder / f"rank-{rank}")
        for rank in range(2)
    ]
    try:
        for rank, process in enumerate(processes):
            process.join()
            assert process.exitcode == 0, (folder / f"rank-{rank}.err").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()


def meet(meeting: str, rank: str) -> None:
    """Initialise the process as `torchrun` does, except for the rendezvous."""
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(hours=1),
    )


def step(model_dir: Path, batches_file: Path, gradient_caching: bool) -> dict[str, torch.Tensor]:
    """Gradients, losses and queue after one step, equal in all processes."""
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


def main(meeting: str, rank: str, job: str, *arguments: str) -> int:
    meet(meeting, rank)
    if job == "train":
        import train

        return train.main(arguments)
    folder, batches_path, out = map(Path, arguments)
    for caching in (False, True):
        found = step(folder, batches_path, caching)
        if Accelerator().is_main_process:
            save_file(found, out / f"caching-{caching}.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""train.py in one of two processes that rendezvous through a file, since a port may be in use.

python -m tests.pipelines.pretraining.two_processes MEETING RANK FLAGS...
"""

import os
import sys
from datetime import timedelta

import torch

import train


def main(meeting: str, rank: str, *flags: str) -> int:
    """Initialise the process as `torchrun` does, except for the rendezvous, and train."""
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(hours=1),
    )
    return train.main(flags)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

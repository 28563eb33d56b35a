"""Image-text retrieval of a model in training on the validation pairs."""

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from modeling_urbanln import UrbanLNModel

from .data import PairBatches, batch_loader
from .retrieval import retrieval_metrics
from .sampling import BatchIndices


@torch.no_grad()
def validate(
    accelerator: Accelerator,
    model: UrbanLNModel,
    batches: PairBatches,
    batch_size: int,
    num_workers: int = 0,
) -> dict[str, float]:
    """Embed the validation pairs, shared between the processes, and measure retrieval.

    Args:
        accelerator: gathers and casts.
        model: on its device; its mode is restored.
        batches: gives batches of the pairs.
        batch_size: pairs of one process at a time.
        num_workers: processes that decode images.

    Returns:
        [`retrieval_metrics`], the same in every process.
    """
    pairs = batches.pairs
    # by length, so that little is spent on padding
    order = pairs.validation[np.argsort(pairs.num_tokens[pairs.validation], kind="stable")]
    own = order[accelerator.process_index :: accelerator.num_processes]
    plan = [
        BatchIndices(0, own[start : start + batch_size]) for start in range(0, len(own), batch_size)
    ]
    was_training = model.training
    model.eval()
    parts = []
    loader = batch_loader(batches, plan, num_workers, accelerator.device.type == "cuda")
    for step, batch in zip(plan, loader, strict=True):
        inputs = {name: value.to(accelerator.device) for name, value in batch.items()}
        with accelerator.autocast():
            image = model.get_image_features(inputs["pixel_values"]).pooler_output
            text = model.get_text_features(
                inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).pooler_output
        parts.append((step.indices, _unit(image), _unit(text)))
    model.train(was_training)

    gathered = gather_object(parts)
    indices = np.concatenate([part[0] for part in gathered])
    by_index = np.argsort(indices)  # of the order of processes nothing may depend
    images = np.concatenate([part[1] for part in gathered])[by_index]
    texts = np.concatenate([part[2] for part in gathered])[by_index]
    captions = pairs.captions.take(indices[by_index]).to_pylist()
    return retrieval_metrics(images, texts, captions)


def _unit(embeds: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(embeds.float(), dim=-1).cpu().numpy()


__all__ = ["validate"]

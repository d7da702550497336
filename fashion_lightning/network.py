"""The networks: images in, logits out. Pure PyTorch."""

from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fashion_lightning.arguments import at_least, expect, square_images


def materialize(module: nn.Module) -> None:
    """Give lazy layers their weights by one forward in eval mode; leave others alone."""
    lazy = [weights.device for weights in module.parameters() if is_lazy(weights)]
    if lazy:
        images = torch.zeros(2, 1, 28, 28, device=lazy[0])
        modes = {part: part.training for part in module.modules()}
        with torch.no_grad():
            module.eval()(images)
        for part, is_training in modes.items():
            part.training = is_training


class MLP(nn.Module):
    """The network of PyTorch's "Build the Neural Network" tutorial.

    Three linear layers with ReLU between them, 669,706 parameters by default. The attributes have
    the tutorial's names, so a ``model.pth`` of the tutorial loads into it and the other way round.

    Source: https://docs.pytorch.org/tutorials/beginner/basics/buildmodel_tutorial.html

    Args:
        in_features: Pixels of an image, a square number.
        hidden_features: Width of the two hidden layers.
        num_classes: Number of logits.

    Raises:
        ValueError: If a size is below 1 or `in_features` is not a square number.

    Example:
        >>> import torch
        >>> MLP()(torch.rand(3, 28, 28)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self, in_features: int = 784, hidden_features: int = 512, num_classes: int = 10
    ) -> None:
        super().__init__()
        at_least(1, hidden_features=hidden_features, num_classes=num_classes)
        at_least(1, in_features=in_features)
        self._side = isqrt(in_features)
        right = "a square number, the pixels of a square image"
        expect(self._side**2 == in_features, "in_features", right, in_features)
        self.init_args = {  # A checkpoint rebuilds the network with these.
            "in_features": in_features,
            "hidden_features": hidden_features,
            "num_classes": num_classes,
        }
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(in_features, hidden_features),
            nn.ReLU(),
            nn.Linear(hidden_features, hidden_features),
            nn.ReLU(),
            nn.Linear(hidden_features, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, ``(N, num_classes)``.

        Args:
            images: Floating point, ``(N, 1, 28, 28)`` or ``(N, 28, 28)``.

        Raises:
            ValueError: If the images have another shape or are not floating point.
        """
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            square_images(self._side, images=images)
        logits: Tensor = self.linear_relu_stack(self.flatten(images))
        return logits


class ConvNet(nn.Module):
    """A small residual network: six 3x3 convolutions with batch normalization and ReLU.

    117,242 parameters by default. Max-pooling shrinks images 28 -> 14 -> 7; a shortcut spans two
    convolutions at 14x14 pixels; each channel ends as its maximum over the image.

    Args:
        channels: Output channels of the first convolution; the next ones have 2, 4 and 8 times as
            many.
        num_classes: Number of logits.

    Raises:
        ValueError: If a size is below 1.

    Example:
        >>> import torch
        >>> ConvNet()(torch.rand(3, 1, 28, 28)).shape
        torch.Size([3, 10])
    """

    def __init__(self, channels: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        at_least(1, channels=channels, num_classes=num_classes)
        self.init_args = {"channels": channels, "num_classes": num_classes}
        self.features = nn.Sequential(
            *_convolution(1, channels),
            nn.ReLU(),
            *_convolution(channels, 2 * channels, nn.MaxPool2d(2)),
            nn.ReLU(),
            _Residual(2 * channels),
            *_convolution(2 * channels, 4 * channels, nn.MaxPool2d(2)),
            nn.ReLU(),
            *_convolution(4 * channels, 8 * channels),
            nn.ReLU(),
            nn.MaxPool2d(7),
        )
        self.flatten = nn.Flatten()
        self.classify = nn.Linear(8 * channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, ``(N, num_classes)``.

        Args:
            images: Floating point, ``(N, 1, 28, 28)`` or ``(N, 28, 28)``.

        Raises:
            ValueError: If the images have another shape or are not floating point.
        """
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            square_images(28, images=images)
        # channels_last, which the layers keep, is several times faster on CPUs and tensor cores.
        # Images of one channel have it as another view.
        features = self.features(images.reshape(-1, 28, 28, 1).permute(0, 3, 1, 2))
        logits: Tensor = self.classify(self.flatten(features))
        return logits


class _Residual(nn.Module):
    """A residual block: relu(x + conv(relu(conv(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.difference = nn.Sequential(
            *_convolution(channels, channels), nn.ReLU(), *_convolution(channels, channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = features + self.difference(features)
        return changed.relu()


def _convolution(in_channels: int, out_channels: int, *pool: nn.Module) -> list[nn.Module]:
    """Return a convolution and its normalization, with pooling between them if given."""
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        *pool,
        nn.BatchNorm2d(out_channels),
    ]


NETWORKS = (MLP, ConvNet)
"""The networks that a checkpoint may name."""

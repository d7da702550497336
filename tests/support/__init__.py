"""The repository's path, processes and the tutorial's network, for several test files."""

from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from torch import Tensor, nn

REPOSITORY = Path(__file__).parent.parent.parent
# The processes of a test fork from a server that has already imported the package.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["fashion_lightning.cli.main"])

Command = Callable[..., None]


class NeuralNetwork(nn.Module):
    """The network of PyTorch's tutorial, as its readers have typed it."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(28 * 28, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear_relu_stack(self.flatten(x))
        return logits

"""What several test files use: the repository, processes, the tutorial's network."""

from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from torch import Tensor, nn

REPOSITORY = Path(__file__).parent.parent.parent
# Processes of a test fork from a server that has imported the package already.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["fashion_lightning.cli.main"])

Command = Callable[..., None]


class NeuralNetwork(nn.Module):
    """The network as somebody has it who followed PyTorch's tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(28 * 28, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear_relu_stack(self.flatten(x))
        return logits

from pathlib import Path

import pytest
import torch
from support import NeuralNetwork
from torch import nn

from fashion_lightning import MLP, ConvNet


def test_mlp_prints_like_the_tutorials_network() -> None:
    assert str(MLP()) == str(NeuralNetwork()).replace("NeuralNetwork", "MLP")


def test_a_model_saved_by_the_tutorial_loads_and_answers_the_same(tmp_path: Path) -> None:
    theirs, ours = NeuralNetwork(), MLP()
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    ours.load_state_dict(torch.load(tmp_path / "model.pth"), strict=True)
    images = torch.rand(5, 1, 28, 28)
    assert torch.equal(ours(images), theirs(images))


def test_the_tutorials_network_loads_ours() -> None:
    theirs, ours = NeuralNetwork(), MLP()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.rand(5, 1, 28, 28)
    assert torch.equal(ours(images), theirs(images))


def test_parameters() -> None:
    assert sum(parameter.numel() for parameter in MLP().parameters()) == 669_706
    assert sum(parameter.numel() for parameter in ConvNet().parameters()) == 117_242


@pytest.mark.parametrize("network", [MLP(), ConvNet()])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (7, 1, 28, 28), (0, 1, 28, 28)])
def test_shapes(network: nn.Module, shape: tuple[int, ...]) -> None:
    assert network(torch.rand(shape)).shape == (shape[0], 10)


@pytest.mark.parametrize("network", [MLP(), ConvNet()])
def test_a_channel_dimension_changes_nothing(network: nn.Module) -> None:
    images = torch.rand(3, 28, 28)
    assert torch.equal(network.eval()(images), network(images.unsqueeze(1)))


@pytest.mark.parametrize("network", [MLP(), ConvNet()])
@pytest.mark.parametrize("shape", [(28, 28), (2, 3, 28, 28), (2, 784), (1, 1, 14, 56), (2, 32, 32)])
def test_other_shapes_are_refused(network: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
        network(torch.rand(shape))


@pytest.mark.parametrize("network", [MLP(), ConvNet()])
def test_integer_images_are_refused(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="uint8"):
        network(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))


def test_sizes_are_options() -> None:
    network = MLP(in_features=16, hidden_features=5, num_classes=3)
    assert network(torch.rand(2, 4, 4)).shape == (2, 3)
    assert [p.shape[0] for p in network.parameters()] == [5, 5, 5, 5, 3, 3]
    wide = ConvNet(channels=4, num_classes=3)
    assert wide(torch.rand(2, 28, 28)).shape == (2, 3)
    assert wide.features[0].out_channels == 4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP(in_features=785), "Expected `in_features` to be a square number.* got 785"),
        (lambda: MLP(in_features=0), "Expected `in_features` to be an int >= 1, but got 0"),
        (lambda: MLP(hidden_features=0), "Expected `hidden_features` to be .* got 0"),
        (lambda: MLP(num_classes=-1), "Expected `num_classes` to be .* got -1"),
        (lambda: ConvNet(channels=0), "Expected `channels` to be .* got 0"),
        (lambda: ConvNet(num_classes=0), "Expected `num_classes` to be .* got 0"),
    ],
)
def test_senseless_sizes_are_refused(build: type[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

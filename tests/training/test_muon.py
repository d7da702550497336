"""Muon: against PyTorch's Muon and AdamW, an exact decomposition, and reshaping by hand."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from fashion_lightning import MLP, FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.network import ConvNet
from fashion_lightning.training import muon
from fashion_lightning.training.muon import Muon, muon_groups, orthogonalize

SETTINGS: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.3}


def steps(optimizers: list[Any], *each: list[Tensor], number: int = 5) -> None:
    """Take steps with random gradients, the same for the first list, the second, and so on."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(number):
        for same in zip(*each, strict=True):
            gradient = torch.randn(same[0].numel(), generator=generator)
            for weights in same:
                weights.grad = gradient.view(weights.shape).clone()
        for optimizer in optimizers:
            optimizer.step()


def random(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


@pytest.mark.parametrize("is_native", [True, False])
def test_matrices_move_as_with_pytorchs_muon(
    is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 bit for bit; in 32 bit as far as PyTorch's, which always rounds to bf16, shows."""
    monkeypatch.setattr(muon, "multiplies_bf16", lambda device: is_native)
    shapes = [(30, 20), (20, 30), (25, 25)]
    ours, theirs = random(*shapes), random(*shapes)
    plain = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **SETTINGS)
    steps([Muon(ours, **SETTINGS), plain], list(ours), list(theirs))
    for mine, other, before in zip(ours, theirs, random(*shapes), strict=True):
        assert torch.equal(mine, other) or not is_native
        torch.testing.assert_close(mine - before, other - before, rtol=0.1, atol=0.005)


def test_blocks_of_rows_move_like_matrices_of_their_own() -> None:
    """Of the shorter side: neurons of a wide matrix, inputs of a tall one."""
    wide, tall = torch.randn(20, 30), torch.randn(30, 20)
    expected = torch.cat([orthogonalize(part) for part in wide.tensor_split(3)])
    torch.testing.assert_close(orthogonalize(wide, block_rows=8), expected)
    expected = torch.cat([orthogonalize(part) for part in tall.tensor_split(3, dim=1)], dim=1)
    torch.testing.assert_close(orthogonalize(tall, block_rows=8), expected)

    whole, apart = random((14, 30)), random((7, 30), (7, 30))
    with torch.no_grad():
        apart[0].copy_(whole[0][:7])
        apart[1].copy_(whole[0][7:])
    whole[0].grad = torch.randn(14, 30)
    apart[0].grad, apart[1].grad = whole[0].grad[:7].clone(), whole[0].grad[7:].clone()
    Muon(whole, block_rows=7, **SETTINGS).step()
    Muon(apart, **SETTINGS).step()
    torch.testing.assert_close(whole[0], torch.cat(list(apart)))
    assert not torch.allclose(orthogonalize(wide, block_rows=8), orthogonalize(wide), atol=0.01)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_orthogonalization_maps_singular_values_by_its_polynomial(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "multiplies_bf16", lambda device: False)
    matrix = torch.randn(shape)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values /= values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = (left * values) @ right
    torch.testing.assert_close(orthogonalize(matrix).double(), expected, rtol=0, atol=1e-4)
    with torch.autocast("cpu"):  # A step by hand inside a training step is under autocast.
        assert torch.equal(orthogonalize(matrix), orthogonalize(matrix.clone()))
        assert orthogonalize(matrix).dtype == torch.float32


def test_all_else_moves_as_with_pytorchs_adamw() -> None:
    shapes = [(30,), (1, 1, 30), (30, 1, 1, 1), ()]
    ours, theirs = random(*shapes, (10, 30)), random(*shapes, (10, 30))
    groups = [{"params": ours[:-1]}, {"params": ours[-1:], "muon": False}]
    plain = torch.optim.AdamW(theirs, betas=(0.8, 0.9), fused=True, **SETTINGS)
    steps([Muon(groups, betas=(0.8, 0.9), **SETTINGS), plain], list(ours), list(theirs))
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_kernels_move_as_matrices(memory_format: Any) -> None:
    kernels, matrices = random((8, 4, 3, 3)), random((8, 36))
    kernels = [nn.Parameter(kernels[0].data.contiguous(memory_format=memory_format))]
    steps([Muon([*kernels, *matrices], **SETTINGS)], list(kernels), list(matrices))
    assert torch.equal(kernels[0].flatten(1), matrices[0])


class Mixed(nn.Module):
    """Registers its last layer first, with what is no matrix although it has two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(12, 10)
        self.words, self.norm = nn.Embedding(50, 12), nn.LayerNorm((3, 12))
        self.places, self.body = nn.Parameter(torch.zeros(1, 3, 12)), nn.Linear(12, 12)

    def forward(self, numbers: Tensor) -> Tensor:
        hidden: Tensor = self.norm(self.words(numbers) + self.places)
        return self.classify(self.body(hidden).mean(1))  # type: ignore[no-any-return]


def by_muon(network: nn.Module, batch: Tensor) -> set[str]:
    """Return the weights that Muon has trained; AdamW must have trained all others."""
    optimizer = Muon(muon_groups(network, 10))
    network(batch).square().sum().backward()
    optimizer.step()
    states = {name: {*optimizer.state[each]} for name, each in network.named_parameters()}
    found = {name for name, state in states.items() if state == {"momentum_buffer"}}
    adamw = {"step", "exp_avg", "exp_avg_sq"}
    assert all(states[name] == adamw for name in states.keys() - found)
    return found


def test_which_weights_muon_trains() -> None:
    images = torch.rand(4, 1, 28, 28)
    assert by_muon(MLP(), images) == {f"linear_relu_stack.{n}.weight" for n in (0, 2)}
    linear = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert by_muon(linear, images) == set()
    convnet = ConvNet(channels=2)
    kernels = {name for name, each in convnet.named_parameters() if each.dim() == 4}
    assert by_muon(convnet, images) == kernels
    resnet = resnet18(num_classes=10)
    kernels = {name for name, each in resnet.named_parameters() if each.dim() == 4}
    assert by_muon(resnet, torch.rand(4, 3, 32, 32)) == kernels
    assert by_muon(Mixed(), torch.randint(50, (4, 3))) == {"body.weight"}
    assert by_muon(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 7)), torch.rand(2, 5)) == {
        "0.weight"  # No layer has ten outputs: the last one is the last.
    }
    frozen = MLP()
    frozen.linear_relu_stack[:3].requires_grad_(False)
    assert [len(group["params"]) for group in muon_groups(frozen, 10)] == [1, 1]


def trainer(**arguments: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**{"accelerator": "cpu", "enable_checkpointing": False, **quiet, **arguments})


def lazy() -> nn.Module:
    hidden = (nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(16))
    return nn.Sequential(*hidden, nn.ReLU(), nn.Linear(16, 10))


def test_a_continued_run_ends_with_the_same_bits(tmp_path: Path, data_dir: Path) -> None:
    """Also with lazy layers, whose weights exist before the optimizer does."""
    ends = []
    for path in (None, tmp_path / "epoch=0.ckpt"):
        seed_everything(0)
        save = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
        few = {"limit_train_batches": 40, "limit_val_batches": 2}
        theirs = trainer(max_epochs=2, callbacks=[save], enable_checkpointing=True, **few)
        datamodule = FashionMNISTDataModule(data_dir, batch_size=50, mirrors=[])
        theirs.fit(FashionMNISTClassifier(lazy(), optimizer="muon"), datamodule, ckpt_path=path)
        checkpoint = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
        (tmp_path / "epoch=1.ckpt").unlink()
        ends.append((checkpoint["state_dict"], checkpoint["optimizer_states"]))
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_a_state_is_restored_bit_for_bit() -> None:
    shapes, optimizers, weights = [(30, 20), (8, 4, 3, 3), (30,)], [], []
    for number in (3, 3):
        weights.append(random(*shapes))
        optimizers.append(Muon(weights[-1], **SETTINGS))
        steps(optimizers[-1:], list(weights[-1]), number=number)
    other = Muon(weights[1], lr=0.0)
    other.load_state_dict(deepcopy(optimizers[0].state_dict()))
    assert other.state_dict()["param_groups"] == optimizers[0].state_dict()["param_groups"]
    steps([optimizers[0]], list(weights[0]))
    steps([other], list(weights[1]))
    assert all(map(torch.equal, weights[0], weights[1]))


BATCH = torch.rand(40, 1, 28, 28), torch.arange(40) % 10


def test_by_hand_with_a_closure() -> None:
    classifier = FashionMNISTClassifier(optimizer="muon")
    optimizer = classifier.configure_optimizers()["optimizer"]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = classifier.training_step(BATCH, 0)
        torch.autograd.backward(loss)
        return loss

    losses = [optimizer.step(closure).item() for _ in range(10)]
    assert losses[-1] < losses[0]


def test_under_fabric() -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    classifier = FashionMNISTClassifier(optimizer="muon")
    model, optimizer = fabric.setup(classifier, classifier.configure_optimizers()["optimizer"])
    model.mark_forward_method("training_step")
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(model.training_step(BATCH, 0))
        fabric.backward(losses[-1])
        optimizer.step()
    assert losses[-1] < losses[0]


def test_a_rate_that_was_searched_for_is_that_of_every_group() -> None:
    find = LearningRateFinder(num_training_steps=20, early_stop_threshold=None)
    theirs = trainer(max_epochs=1, callbacks=[find])
    classifier = FashionMNISTClassifier(MLP(hidden_features=16), optimizer="muon", warmup=1.0)
    loader = DataLoader(TensorDataset(*BATCH), batch_size=2)
    theirs.fit(classifier, loader, loader)
    peaks = {group["initial_lr"] for group in theirs.optimizers[0].param_groups}
    assert len(peaks) == 1
    assert classifier.lr != 2.5e-3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1.0),
        ("weight_decay", -1.0),
        ("momentum", 1.0),
        ("steps", 0),
        ("block_rows", 1),
        ("betas", (0.9, 1.0)),
    ],
)
def test_bad_arguments_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected `.*` to be .*, but got"):
        Muon(random((2, 2)), **{name: value})

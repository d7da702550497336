"""PyTorch's quickstart for FashionMNIST, for comparison.

The network, loss, optimizer, batch size and number of epochs of
https://docs.pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html, on torchvision's
dataset and PyTorch's DataLoader with their defaults. Prints the test accuracy. Run it as

    python tests/benchmarks/quickstart.py data

after any `fashion-lightning` command, which leaves the dataset's files in `data`.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import ToTensor

from fashion_lightning import MLP


def main(data_dir: str) -> None:
    """Train for five epochs, and test after each."""
    device = torch.device("cpu")
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()  # type: ignore[assignment]
    training = datasets.FashionMNIST(data_dir, train=True, transform=ToTensor())
    test = datasets.FashionMNIST(data_dir, train=False, transform=ToTensor())
    training_loader, test_loader = DataLoader(training, batch_size=64), DataLoader(test, 64)
    network = MLP().to(device)
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for epoch in range(5):
        network.train()
        for images, labels in training_loader:
            loss = loss_function(network(images.to(device)), labels.to(device))
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        network.eval()
        correct = 0.0
        with torch.no_grad():
            for images, labels in test_loader:
                predicted = network(images.to(device)).argmax(dim=1)
                correct += (predicted == labels.to(device)).sum().item()
        print(f"epoch {epoch + 1}: {correct / len(test):.1%} on the test set")


if __name__ == "__main__":
    main(sys.argv[1])

"""The temperature: checked against SciPy's minimiser, and where it is used and where not."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from support import Command
from torch import Tensor

from fashion_lightning import FashionMNISTClassifier, FashionMNISTDataModule
from fashion_lightning.training.calibration import fit_temperature


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """SciPy's answer, by bounded scalar minimisation over log T."""

    def loss(log_t: float) -> float:
        temperature = torch.tensor(log_t, dtype=torch.float64).exp()
        return F.cross_entropy(logits.double() / temperature, labels).item()

    found = minimize_scalar(loss, bounds=(-4.6, 4.6), method="bounded", options={"xatol": 1e-10})
    return float(torch.tensor(found.x, dtype=torch.float64).exp())


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
def test_the_temperature_is_scipys(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (2000,), generator=generator)
    logits = torch.randn(2000, 10, generator=generator) + 2 * F.one_hot(labels, 10)
    assert fit_temperature(scale * logits, labels) == pytest.approx(
        best_temperature(scale * logits, labels), rel=1e-4
    )


def test_logits_without_an_optimum_get_a_temperature_in_bounds() -> None:
    labels = torch.arange(1000) % 10
    right = F.one_hot(labels, 10).float()
    for logits in (right, -right, 1e6 * right, 0 * right, right / 0):
        assert 0.01 <= fit_temperature(logits, labels) <= 100


@pytest.fixture(scope="module")
def validated(trained: Path, data_dir: Path) -> tuple[FashionMNISTClassifier, Tensor, Tensor]:
    """A trained classifier, with the network's own logits of the validation images and labels."""
    classifier = FashionMNISTClassifier.load_from_checkpoint(trained / "checkpoints" / "best.ckpt")
    datamodule = FashionMNISTDataModule(data_dir, mirrors=[])
    datamodule.setup("validate")
    images, labels = datamodule.val_set.tensors
    with torch.no_grad():
        pixels = images.unsqueeze(1).float() / 255
        return classifier, classifier.network((pixels - classifier.mean) / classifier.std), labels


def test_a_checkpoint_holds_the_temperature_of_its_validation(
    validated: tuple[FashionMNISTClassifier, Tensor, Tensor],
) -> None:
    classifier, logits, labels = validated
    temperature = classifier.temperature.item()
    assert temperature == pytest.approx(best_temperature(logits, labels), rel=1e-3)
    assert temperature != pytest.approx(1, abs=0.05)  # Label smoothing asks for less.


def test_validation_during_and_after_a_fit_say_the_same(
    validated: tuple[FashionMNISTClassifier, Tensor, Tensor],
    trained: Path,
    data_dir: Path,
    tmp_path: Path,
) -> None:
    classifier, logits, labels = validated
    trainer = pl.Trainer(default_root_dir=tmp_path, logger=False, enable_progress_bar=False)
    datamodule = FashionMNISTDataModule(data_dir, mirrors=[])
    (logged,) = trainer.validate(classifier, datamodule, verbose=False)
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    score = checkpoint["callbacks"]["BestAndLast"]["best_model_score"]
    assert logged["val_loss"] == pytest.approx(score, rel=1e-6)
    calibrated = F.cross_entropy(logits.double() / classifier.temperature, labels)
    assert logged["val_loss"] == pytest.approx(calibrated.item(), rel=1e-5)


def test_predictions_are_calibrated_and_name_the_same_classes(
    validated: tuple[FashionMNISTClassifier, Tensor, Tensor], data_dir: Path
) -> None:
    classifier, _, _ = validated
    datamodule = FashionMNISTDataModule(data_dir, mirrors=[])
    datamodule.setup("test")
    images = datamodule.test_set.tensors[0].unsqueeze(1).float() / 255
    with torch.no_grad():
        logits = classifier.network((images - classifier.mean) / classifier.std)
        probs = classifier.predict_step(images, 0)
    assert torch.allclose(probs, (logits / classifier.temperature).softmax(1), atol=1e-6)
    assert torch.equal(probs.argmax(1), logits.argmax(1))


@pytest.mark.filterwarnings("ignore:The temperature is 0.2, of other weights than these")
def test_training_goes_on_at_temperature_1(trained: Path, data_dir: Path, tmp_path: Path) -> None:
    """What a checkpoint's temperature is does not change what a fit that starts from it learns."""
    weights = []
    for temperature in (1.0, 0.2):
        pl.seed_everything(0)
        path = trained / "checkpoints" / "best.ckpt"
        classifier = FashionMNISTClassifier.load_from_checkpoint(path)
        classifier.temperature.fill_(temperature)
        trainer = pl.Trainer(
            max_steps=3,
            limit_val_batches=0,
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(classifier, FashionMNISTDataModule(data_dir, mirrors=[]))
        weights.append(torch.cat([value.flatten() for value in classifier.parameters()]))
        # No validation has found another one.
        assert classifier.temperature.item() == pytest.approx(temperature)
    assert torch.equal(*weights)


def test_sanity_checking_fits_no_temperature(command: Command, tmp_path: Path) -> None:
    command(
        *("fit", "--test_after_fit", "false", "--trainer.default_root_dir", str(tmp_path)),
        *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"),
        *("--trainer.check_val_every_n_epoch", "2", "--trainer.num_sanity_val_steps", "2"),
    )
    (path,) = tmp_path.rglob("last.ckpt")
    assert torch.load(path, weights_only=True)["state_dict"]["temperature"] == 1

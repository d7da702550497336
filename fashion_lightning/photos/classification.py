"""Photographs classified: a path for plain backgrounds, one for real ones, and how sure each is.

A garment on a plain background is converted as the dataset was made, and goes to
`pretrained:convnet`. Any other photograph is segmented (`segmentation.py`), shown as several views
(`views.py`), and goes to `pretrained:photos`, which was trained on imperfectly masked garments;
`pretrained:convnet` has a sixth of the vote.
In the command, `Photos` calls `look_at` while it loads, and `cli/photos.py` adds the plain ones.
Each photograph is computed alone, so that its result does not depend on the others.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from fashion_lightning.arguments import expect
from fashion_lightning.checkpoints.pretrained import resolve, weights_file
from fashion_lightning.data.files import CLASSES
from fashion_lightning.module import FashionMNISTClassifier
from fashion_lightning.photos.background import SURE, is_plain
from fashion_lightning.photos.conversion import to_fashion_mnist
from fashion_lightning.photos.reading import read_picture, upright
from fashion_lightning.photos.segmentation import find_garment, load_unet
from fashion_lightning.photos.views import render

Part = Literal["views", "network", "second look", "masks"]
Picture = str | Path | Image.Image | npt.NDArray[np.uint8]

# Chosen like `SURE`, all three:
_OTHER_VOTE = 1 / 6  # of the network of plain backgrounds on real ones
_TEMPERATURE = 1.25  # Divides the mean of the views' logits.
_LIFT = 0.7  # Added to the largest one: the answer is right at twice the odds that they give it.


@dataclass(frozen=True, eq=False)
class PhotoResult:
    """The classification of one photograph.

    Attributes:
        background: ``plain`` or ``real``, which decides how it was classified.
        class_name: None if no garment was found.
        prediction: The class number; -1 if no garment was found.
        confidence: The largest probability, calibrated; 0 if no garment was found.
        sure: Whether `confidence` reaches the threshold of its path. None with a checkpoint of
            one's own, whose calibration on photographs is unknown.
        probabilities: float32, ``(10,)``; zeros if no garment was found.
        seen: uint8, ``(28, 28)``: what the network saw, on a real background its first view.
        mask: uint8, ``(64, 64)``: 255 is garment. None on a plain background.
        region: Left, top, right and bottom of what the mask covers, in pixels of the picture as
            `read_picture` returns it.
        reason: Why no garment was found.
    """

    background: Literal["plain", "real"]
    class_name: str | None = None
    prediction: int = -1
    confidence: float = 0.0
    sure: bool | None = False
    probabilities: Tensor = field(default_factory=lambda: torch.zeros(len(CLASSES)))
    seen: Tensor | None = None
    mask: Tensor | None = None
    region: tuple[int, int, int, int] | None = None
    reason: str | None = None


class PhotoClassifier:
    """Classifies photographs of any background.

    Args:
        checkpoint: For both paths; a classifier, a file, or ``pretrained:NAME``. None:
            ``pretrained:convnet`` on plain backgrounds and ``pretrained:photos`` on others.
        without: Parts to leave out, for measuring: ``views`` (one view of a real photograph instead
            of several), ``network`` (``pretrained:convnet`` on both paths), ``second look``, and
            ``masks`` (all backgrounds are treated as plain ones).
    """

    def __init__(
        self,
        checkpoint: FashionMNISTClassifier | str | Path | None = None,
        *,
        without: Sequence[Part] = (),
    ) -> None:
        self.plain = _load(checkpoint or "pretrained:convnet")
        is_one = checkpoint is not None or "network" in without
        self.real = self.plain if is_one else _load("pretrained:photos")
        self._voters = [_without_mirror(each) for each in dict.fromkeys((self.real, self.plain))]
        with torch.device("cpu"):
            self.unet: nn.Module = load_unet(weights_file("photos-mask"))
        self.is_calibrated = checkpoint is None
        self.without = without

    @torch.no_grad()
    def __call__(self, picture: Image.Image) -> PhotoResult:
        """Classify a picture of any size and mode."""
        result = self.look_at(picture)
        if result.background == "real" or result.seen is None:
            return result
        logits = _logits(self.plain, result.seen[None, None] / 255)
        return self._result("plain", logits, seen=result.seen)

    @torch.no_grad()
    def look_at(self, picture: Image.Image) -> PhotoResult:
        """Classify a picture on a real background; of another one, return `seen` only.

        The network of plain backgrounds takes many images at once.
        """
        with torch.device("cpu"):  # All but the classifiers, which may lie elsewhere.
            picture = upright(picture)
            if not is_plain(picture) and "masks" not in self.without:
                return self._classify_real(_pixels(picture))
            sure = False if self.is_calibrated else None
            try:
                return PhotoResult("plain", sure=sure, seen=to_fashion_mnist(picture))
            except ValueError as error:
                return PhotoResult("plain", reason=str(error))

    def _classify_real(self, pixels: Tensor) -> PhotoResult:
        found = find_garment(self.unet, pixels, 1 if "second look" in self.without else 2)
        if found is None:
            return PhotoResult(
                "real", reason="Expected `picture` to show a garment, but found none."
            )
        left, top, right, bottom = found.region
        views = render(pixels[:, top:bottom, left:right], found.mask)
        shown = views[:1] if "views" in self.without else views
        votes = [_logits(each, shown).mean(0, keepdim=True) for each in self._voters]
        parts = {
            "seen": (views[0, 0] * 255).round().byte(),
            "mask": (found.mask[0] * 255).round().byte(),
            "region": found.region,
        }
        logits = torch.lerp(votes[0], votes[-1], _OTHER_VOTE) / _TEMPERATURE
        if self.is_calibrated:
            logits[0, logits.argmax()] += _LIFT
        return self._result("real", logits, **parts)

    def _result(
        self, background: Literal["plain", "real"], logits: Tensor, **parts: Any
    ) -> PhotoResult:
        probabilities = logits.softmax(dim=1)[0]
        confidence, prediction = probabilities.max(0)
        return PhotoResult(
            background,
            self.plain.class_names[int(prediction)],
            int(prediction),
            float(confidence),
            bool(confidence >= SURE[background]) if self.is_calibrated else None,
            probabilities,
            **parts,
        )


def classify(
    pictures: Picture | Iterable[Picture],
    checkpoint: FashionMNISTClassifier | str | Path | None = None,
) -> list[PhotoResult]:
    """Classify photographs of garments.

    Args:
        pictures: A path, a PIL image, an array uint8 ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``, or
            several of them.
        checkpoint: See `PhotoClassifier`, which does not load its networks again for each call.

    Returns:
        One result per photograph, in their order.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file is not a picture, or an array has another shape or type.

    Example:
        >>> picture = Image.new("RGB", (400, 300), "white")
        >>> picture.paste("black", (100, 150, 300, 250))
        >>> classify(picture)[0].class_name
        'Bag'
    """
    if isinstance(pictures, str | Path | Image.Image | np.ndarray):
        pictures = [pictures]
    classifier = _default() if checkpoint is None else PhotoClassifier(checkpoint)
    return [classifier(_open(each)) for each in pictures]


@cache
def _default() -> PhotoClassifier:
    return PhotoClassifier()


def _load(checkpoint: FashionMNISTClassifier | str | Path) -> FashionMNISTClassifier:
    if isinstance(checkpoint, str | Path):
        checkpoint = FashionMNISTClassifier.load_from_checkpoint(resolve(checkpoint))
    return checkpoint.eval()


def _without_mirror(network: FashionMNISTClassifier) -> FashionMNISTClassifier:
    """Return a copy that sees each image once, as views are mirrored; a Trainer moves `plain`."""
    network = deepcopy(network)
    network.flip_averaging = False
    return network


def _logits(classifier: FashionMNISTClassifier, images: Tensor) -> Tensor:
    logits: Tensor = classifier(images.to(next(classifier.parameters()).device))
    return logits.cpu()


def _open(picture: Picture) -> Image.Image:
    if isinstance(picture, str | Path):
        return read_picture(picture)
    if isinstance(picture, Image.Image):
        return picture
    shape, kind = picture.shape, picture.dtype
    is_picture = picture.ndim == 2 or (picture.ndim == 3 and shape[2] in (3, 4))
    right = "uint8, (H, W), (H, W, 3) or (H, W, 4)"
    expect(is_picture and kind == np.uint8 and 0 not in shape, "picture", right, (kind, shape))
    return Image.fromarray(picture)


def _pixels(picture: Image.Image) -> Tensor:
    """Return RGB in [0, 1], `(3, H, W)`, with white for transparent parts."""
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255

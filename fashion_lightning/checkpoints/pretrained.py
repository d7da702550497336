"""The trained networks that come with this package, by name."""

import hashlib
from importlib import resources
from pathlib import Path

from fashion_lightning.arguments import expect

# SHA-256 of `weights/NAME.safetensors`; `weights/NAME.yaml` is the config it came from.
_CHECKSUMS = {
    "mlp": "5e4cc6a41976f32d2f00ae1330f45fb46e149dd96254509c04994018cfef9dd7",
    "convnet": "4f510778f162e89eeadefd72ddc0586b0cc6c7a62a9372e824710cd3ff022f2b",
    "wide": "a7a076af4f04c9d06c4ed202af2b21387230d1563b5411cb78c0f00026a75c43",
}
# Those of the networks for photographs on real backgrounds: a classifier, and a mask network.
_PHOTOS = {
    "photos": "19a93b00927125bbf1ffdf419bc27ac2e86259ca24e2d73cd846cc6f7e135b25",
    "photos-mask": "dca5eced95a60648d6f497795fb4bbe9f086276c482989adcd9949a80409aa7b",
}


def resolve(path: str | Path) -> Path:
    """Return the file that is meant: that of a trained network for ``pretrained:NAME``.

    Raises:
        ValueError: If there is none of this name, or the installed file is damaged.
    """
    kind, colon, name = str(path).partition(":")
    return weights_file(name) if (kind, colon) == ("pretrained", ":") else Path(path)


def weights_file(name: str) -> Path:
    """Return the file of a trained network, verified.

    Args:
        name: ``mlp`` (of ``configs/mlp-best.yaml``), ``convnet``, ``wide`` (in half precision), or
            ``photos`` and ``photos-mask`` (see `fashion_lightning.photos`), of their configs.

    Returns:
        A file that `fashion_lightning.checkpoints.read_checkpoint` reads.

    Raises:
        ValueError: If there is none of this name, or the installed file is damaged.
    """
    checksums = _CHECKSUMS | _PHOTOS
    expect(name in checksums, "name", " or ".join(map(repr, _CHECKSUMS)), name)
    path = Path(
        str(resources.files("fashion_lightning.checkpoints") / "weights" / f"{name}.safetensors")
    )
    if hashlib.sha256(path.read_bytes()).hexdigest() != checksums[name]:
        raise ValueError(f"Expected {path} as it was released, but its checksum is another one.")
    return path

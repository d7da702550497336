"""The trained networks that come with this package, by name."""

import hashlib
from importlib import resources
from pathlib import Path

from fashion_lightning.arguments import expect

# SHA-256 of `weights/NAME.safetensors`; `weights/NAME.yaml` is the config it came from.
_CHECKSUMS = {
    "mlp": "437d1bb624aa1fed8883329d6e09bb1d77db40898ea7c9e0a320bc73ded90eae",
    "convnet": "4f510778f162e89eeadefd72ddc0586b0cc6c7a62a9372e824710cd3ff022f2b",
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
        name: ``mlp`` (of ``configs/mlp-best.yaml``) or ``convnet`` (of ``configs/convnet.yaml``).

    Returns:
        A file that `fashion_lightning.checkpoints.read_checkpoint` reads.

    Raises:
        ValueError: If there is none of this name, or the installed file is damaged.
    """
    expect(name in _CHECKSUMS, "name", " or ".join(map(repr, _CHECKSUMS)), name)
    path = Path(
        str(resources.files("fashion_lightning.checkpoints") / "weights" / f"{name}.safetensors")
    )
    if hashlib.sha256(path.read_bytes()).hexdigest() != _CHECKSUMS[name]:
        raise ValueError(f"Expected {path} as it was released, but its checksum is another one.")
    return path

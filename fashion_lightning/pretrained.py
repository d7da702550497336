"""The trained networks that come with this package, by name."""

import hashlib
from importlib import resources
from pathlib import Path

from fashion_lightning.checks import expect

# SHA-256 of `weights/NAME.safetensors`; `weights/NAME.yaml` is the config it came from.
_CHECKSUMS = {
    "mlp": "cea810af8ee832d10e024b721917bc0cb2518551d4502b3c31635fb2b2af7555",
    "convnet": "db01b5189c728994b3e0052997e5b3dabbef752ca26135f58136253c6e8ea53e",
}


def resolve(path: str | Path) -> Path:
    """Return the file that is meant: that of a trained network for ``pretrained:NAME``.

    Raises:
        ValueError: If there is none of this name, or the installed file is damaged.
    """
    kind, colon, name = str(path).partition(":")
    return pretrained(name) if (kind, colon) == ("pretrained", ":") else Path(path)


def pretrained(name: str) -> Path:
    """Return the file of a trained network, verified.

    Args:
        name: ``mlp`` (of ``configs/mlp-best.yaml``) or ``convnet`` (of ``configs/convnet.yaml``).

    Returns:
        A file that `fashion_lightning.checkpoints.read_checkpoint` reads.

    Raises:
        ValueError: If there is none of this name, or the installed file is damaged.
    """
    expect(name in _CHECKSUMS, "name", " or ".join(map(repr, _CHECKSUMS)), name)
    path = Path(str(resources.files("fashion_lightning") / "weights" / f"{name}.safetensors"))
    if hashlib.sha256(path.read_bytes()).hexdigest() != _CHECKSUMS[name]:
        raise ValueError(f"Expected {path} as it was released, but its checksum is another one.")
    return path

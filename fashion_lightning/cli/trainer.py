"""Lightning's Trainer with one more task: export."""

from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from fashion_lightning.checkpoints.reading import read_checkpoint
from fashion_lightning.datamodule import FashionMNISTDataModule
from fashion_lightning.module import FashionMNISTClassifier


class ExportingTrainer(Trainer):
    """A Trainer that also exports; `fashion-lightning export` is its method `export`."""

    @rank_zero_only
    def export(
        self,
        model: FashionMNISTClassifier,
        datamodule: FashionMNISTDataModule,
        ckpt_path: str | Path | None = None,
        format: Literal["onnx", "torch_export", "safetensors", "tutorial"] = "onnx",
        output: str | Path | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write a checkpoint's network to a file that works without this package.

        The file is read again by another runtime and compared with the checkpoint on the 10,000
        test images before it gets its name.

        Args:
            model: What the checkpoint's weights are loaded into.
            datamodule: Serves the test images.
            ckpt_path: The checkpoint. The command also takes ``best`` and ``last``. None: the model
                is exported as it is.
            format: ``onnx``, ``torch_export`` (a ``.pt2`` file), ``safetensors``, or ``tutorial``
                (a ``model.pth`` for the class of PyTorch's tutorial).
            output: The file. None: ``model`` with the format's ending, in the run's folder.
            overwrite: Whether a file of that name may be replaced.

        Raises:
            FileExistsError: If the file exists and `overwrite` is False.
            ImportError: If a package that the format needs is not installed.
            ValueError: If the network cannot be written so, or does not answer the same afterwards.
        """
        from fashion_lightning.export import FORMATS, export  # Nothing else needs it.

        path = Path(output or Path(self.default_root_dir) / f"model{FORMATS[format].ending}")
        split = None
        if ckpt_path:
            content = read_checkpoint(ckpt_path)
            model.load_state_dict(content["state_dict"])
            split = content.get(type(datamodule).__qualname__)
        datamodule.prepare_data()
        datamodule.setup("test")
        images = torch.cat([images for images, _ in datamodule.test_dataloader()])
        parity = export(model, images, path, format=format, overwrite=overwrite, split=split)
        rank_zero_info(str(parity))

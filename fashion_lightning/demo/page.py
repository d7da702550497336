"""The page, made with Gradio: a photograph goes in, its answer comes out."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from PIL import Image

from fashion_lightning.arguments import expect, installed
from fashion_lightning.data import files
from fashion_lightning.demo.prediction import answer
from fashion_lightning.photos import PhotoClassifier
from fashion_lightning.photos.reading import MAX_BYTES

_INTRODUCTION = """\
# Which of FashionMNIST's classes is it?
Drop a photograph of one garment, best on a plain background. It is not kept.
"""
_HINT = '<div class="answer"><p>The prediction appears here.</p></div>'
_FONT = ["system-ui", "sans-serif"]  # Gradio's own would come from a server of Google.


def serve(
    ckpt_path: str | Path | None = None, host: str = "127.0.0.1", port: int | None = None
) -> None:
    """Serve a page that classifies photographs, until a KeyboardInterrupt.

    Nothing is sent to other machines. Uploads lie in a temporary folder for ten minutes, or until
    the end.

    Args:
        ckpt_path: A checkpoint file or pretrained:NAME. None: the networks for photographs.
        host: Address to serve at. 0.0.0.0 lets other machines in.
        port: Port to serve at, 1 ... 65535. None: the first free one from 7860 on.

    Raises:
        ImportError: If Gradio is not installed.
        OSError: If the address is taken, or there is no such file.
        ValueError: If `port` is out of range, or the file is no checkpoint of this package's
            networks.
    """
    installed("gradio", "demo", "the demo")
    expect(port is None or 0 < port < 2**16, "port", "in 1 ... 65535", port)
    classifier = PhotoClassifier(ckpt_path)
    with TemporaryDirectory(prefix="fashion-lightning-") as folder:
        # Gradio reads them when it is imported, and when a component is made.
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False")
        page, look = _build(classifier, Path(folder))
        try:
            page.launch(
                server_name=host,
                server_port=port,
                share=False,
                max_file_size=MAX_BYTES,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                **look,
            )
        except OSError as error:
            raise OSError(
                f"Expected `host` and `port` to be a free address, but got {host}:{port}."
            ) from error
        print(f"Drop photographs on {page.local_url} (Ctrl-C stops it).", flush=True)
        try:
            Event().wait()
        except KeyboardInterrupt:
            page.close(verbose=False)


def _build(classifier: PhotoClassifier, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the page, and how it looks."""
    import gradio as gr

    def show(photo: dict[str, Any] | None) -> str:
        return answer(classifier, photo["path"]) if photo else _HINT

    with gr.Blocks(
        title="Fashion photographs", analytics_enabled=False, delete_cache=(60, 600)
    ) as page:
        gr.Markdown(_INTRODUCTION)
        with gr.Row():
            with gr.Column():
                photo = gr.Image(
                    label="Photograph",
                    sources=["upload", "webcam", "clipboard"],
                    height="33.5rem",
                    elem_classes="photo",
                )
            with gr.Column():
                result = gr.HTML(_HINT, apply_default_css=False)
        gr.Examples(_test_images(folder), photo, label="Or one of the test images")
        # `answer` reads the file, with its limits, not Gradio.
        photo.change(show, photo, result, preprocess=False, api_visibility="private")
    look = {
        "theme": gr.themes.Base(primary_hue="blue", font=_FONT, font_mono=["monospace"]),
        "css_paths": Path(__file__).parent / "page.css",
        "footer_links": [],
        "run_history": False,
    }
    return page, look


def _test_images(folder: Path) -> list[str]:
    """Write the first test image of each class."""
    images, labels = files.load("", train=False)
    paths = [folder / f"{label}.png" for label in range(len(files.CLASSES))]
    for label, path in enumerate(paths):
        Image.fromarray(images[labels == label][0].numpy()).save(path)
    return [str(path) for path in paths]

"""What the page shows of one photograph, as HTML."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from fashion_lightning.photos import PhotoClassifier, cut_out
from fashion_lightning.photos.reading import decode
from fashion_lightning.plotting import percent

_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)


def answer(classifier: PhotoClassifier, path: str | Path) -> str:
    """Classify a photograph; return its class, the network's input and all probabilities.

    Args:
        classifier: Classifies it.
        path: The file, read with the limits of `fashion_lightning.photos.read_picture`.

    Returns:
        HTML without links, in which all texts are escaped. If the file cannot be read or shows no
        garment, it says so.
    """
    page = _PAGES.get_template("prediction.html.j2")
    try:
        picture = decode(Path(path))
    except (OSError, ValueError) as error:
        return page.render(problem=str(error), is_unsure=False)
    result = classifier(picture)
    if result.seen is None:
        return page.render(problem=result.reason, is_unsure=False)
    garment = None
    if result.mask is not None and result.region is not None:
        garment = _as_url(cut_out(picture, result.mask, result.region))
    values, labels = result.probabilities.sort(descending=True)
    names = [classifier.plain.class_names[label] for label in labels]
    return page.render(
        problem=None,
        is_unsure=result.sure is False,
        rows=[
            (name, value, percent(value, 1))
            for name, value in zip(names, values.tolist(), strict=True)
        ],
        garment=garment,
        seen=_as_url(Image.fromarray(result.seen.numpy())),
    )


def _as_url(picture: Image.Image) -> str:
    content = BytesIO()
    picture.save(content, "PNG")
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"

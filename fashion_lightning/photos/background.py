"""Whether a picture shows a garment on a plain background, or as people photograph it at home.

Plain ones are those that `to_fashion_mnist` was made for; decided by the border alone.
"""

import numpy as np
from PIL import Image

from fashion_lightning.data.files import IMAGE_SIZE

SURE = {"plain": 0.7, "real": 0.7}
"""The confidence from which a prediction is sure, by background.

That of real ones was chosen on the same 252 photographs that it was measured on
(tests/benchmarks/photos.py): 56 % are sure, and 87 % of these right. That of plain ones was
chosen without photographs.
"""

_TOLERANCE = 0.05 * 255  # How far the colour of a plain background may vary.
_OTHERS = 0.2  # share of the border that may have another colour, such as a garment's
_WHITE = 0.4  # share of pure white from which it is a shop's picture, cropped to the garment
_PLACES = 16  # in how many places it may have one; a speckled floor has more


def is_plain(picture: Image.Image) -> bool:
    """Return whether a picture, in RGB or RGBA, has a plain or a transparent background.

    Pictures of 28 x 28 pixels count as plain: the dataset's own images have no background to find.
    """
    if picture.size == (IMAGE_SIZE, IMAGE_SIZE):
        return True
    pixels = np.asarray(picture)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if picture.mode == "RGBA" and (border[:, 3] < 128).mean() > 1 - _OTHERS:
        return True
    if (border[:, :3].min(axis=1) >= 250).mean() >= _WHITE:
        return True
    colours = border[:, :3].astype(np.float32)
    differs = abs(colours - np.median(colours, axis=0)).max(axis=1) > _TOLERANCE
    places = (differs[1:] & ~differs[:-1]).sum()
    return bool(differs.mean() < _OTHERS and places <= _PLACES)

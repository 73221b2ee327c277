"""Maps of pictures, as control networks follow them."""

from io import BytesIO

import numpy as np
from PIL import Image

from fluxserve.engine.annotators import annotate


def test_canny_draws_white_lines_where_a_square_has_its_edges() -> None:
    image = Image.new("RGB", (128, 64), "navy")
    image.paste("yellow", (32, 16, 96, 48))
    file = BytesIO()
    image.save(file, "PNG")
    lines = annotate("canny", file.getvalue(), (256, 128))
    assert lines.shape == (128, 256, 3)
    assert set(np.unique(lines)) == {0, 255}
    rows, columns = np.nonzero(lines[..., 0])
    assert abs(rows.min() - 32) <= 2
    assert abs(columns.max() - 192) <= 2
    assert not lines[40:90, 80:180].any()
    assert len(rows) < 2 * (128 + 64) * 1.2

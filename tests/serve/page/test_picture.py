"""The picture of the page in the README.

    GPT2X_PICTURE=docs/images/page.png pytest tests/serve/page/test_picture.py

takes it again.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

#: These give lines that a person might choose.
SETTINGS = {"length": 22, "seed": 12, "temperature": 0.7, "topP": 0.9}
TEXT = """\
Enter the KING, and two LORDS.

KING.
The night is long, my lords, and yet the day"""


def test_the_picture_is_taken(start, tmp_path):
    path = Path(os.environ.get("GPT2X_PICTURE") or tmp_path / "page.png")
    writer = start(SETTINGS, viewport={"width": 1200, "height": 800}, color_scheme="light")
    writer.type(TEXT)
    writer.ask()
    writer.press("1")
    writer.ask()
    writer.press("ArrowDown")
    writer.page.screenshot(path=path, animations="disabled", caret="initial")
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (1200, 800)
    assert path.stat().st_size < 150_000

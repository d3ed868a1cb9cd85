"""Make the pictures of README.md from real output: of `inspect`, and of the card that the fast demo writes.

    make pictures      after `make demo-fast`; Chromium must be on the path

The first is what the command prints on a terminal, the second what a browser shows of the card's preview. A test holds
the words of the first against the page's own block, which is run.
"""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
COLUMNS = 100
INSPECT = ["inspect", "examples/smollm2-135m/head", "--target", "target"]
TARGET = Path("~/.cache/eagle3hub/targets/smollm2-135m-instruct").expanduser()
CARD_WIDTH, CARD_HEIGHT = 900, 852

THEME = TerminalTheme(
    (13, 17, 23),
    (230, 233, 238),
    [
        (72, 79, 88),
        (255, 128, 120),
        (76, 195, 138),
        (224, 176, 80),
        (108, 176, 255),
        (212, 160, 255),
        (86, 212, 221),
        (200, 205, 212),
    ],
)
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>eagle3hub inspect on a terminal</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="#0d1117" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, 12)">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def on_a_terminal(argv: list[str], folder: Path) -> str:
    """Run the command line on a terminal of `COLUMNS` columns, and return what it prints, colours included."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "eagle3hub", *argv]
    with subprocess.Popen(command, cwd=folder, stdout=follower, stderr=subprocess.DEVNULL, env=environment) as ran:
        os.close(follower)
        said = b""
        while True:
            try:
                part = os.read(leader, 1 << 16)
            except OSError:  # the last writer has closed the terminal
                break
            if not part:
                break
            said += part
    os.close(leader)
    if ran.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {ran.returncode}")
    return said.decode().replace("\r\n", "\n")


def picture_of_inspect() -> None:
    """Write ``inspect.svg``."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "examples").symlink_to(ROOT / "examples")
        (folder / "target").symlink_to(TARGET)
        said = on_a_terminal(INSPECT, folder)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ eagle3hub {' '.join(INSPECT)}", style="bold"))
    console.print(Text.from_ansi(said.rstrip("\n")))
    svg = console.export_svg(theme=THEME, code_format=FORMAT, unique_id="inspect")
    (IMAGES / "inspect.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


def picture_of_the_card(card: Path) -> None:
    """Write ``card.png``: the top of the card, in 64 colours."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("chromium is not on the path")
    with tempfile.TemporaryDirectory() as made:
        page, shot = Path(made) / "card.html", Path(made) / "card.png"
        subprocess.run([sys.executable, "-m", "eagle3hub", "card", "preview", card, "--output", page], check=True)
        shutil.copytree(card.parent / "charts", page.parent / "charts")
        size = f"--window-size={CARD_WIDTH},{CARD_HEIGHT}"
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size, f"--screenshot={shot}"]
        subprocess.run([chromium, *quiet, page.as_uri()], check=True, stderr=subprocess.DEVNULL)
        with Image.open(shot) as picture:
            picture.convert("RGB").quantize(64).save(IMAGES / "card.png", optimize=True)


if __name__ == "__main__":
    picture_of_inspect()
    picture_of_the_card(ROOT / "build" / "demo-fast" / "README.md")

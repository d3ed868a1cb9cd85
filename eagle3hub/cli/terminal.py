"""The one console of every command: whatever is printed on it shows what it is, styles apart.

Names, paths and messages come from files, hubs and engines that anybody may have written. What in them would move the
cursor, hide text or turn it around is replaced by `visible` before it is laid out, so that widths are right, and once
more when it is written, which holds for every renderable there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from eagle3hub.visible import visible


class CleanConsole(Console):
    """A console whose text is `visible`; markup and styles work as ever."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text of a string, markup read."""
        return super().render_str(visible(text, keep_lines=True), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of anything that can be printed; what moves the cursor on purpose is no text."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n":
                yield segment
            else:
                yield Segment(visible(segment.text, keep_lines=True), segment.style)

"""The README's picture: a real quickstart run in a terminal of 100 columns, its last screen as an SVG.

python tests/bench/quickstart_picture.py .pictures/quickstart.svg
"""

import io
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from terminal import Terminal, installed_command

COLUMNS = 100


def main() -> None:
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        command = [*installed_command(), "--run", "quickstart"]
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        stderr = (Path(folder) / "narration").open("wb")
        with Terminal(command, cwd=Path(folder), env=environment, columns=COLUMNS, stderr=stderr) as terminal:
            assert terminal.wait(timeout=900) == 0, terminal.output
        shown = terminal.output.replace("\r\n", "\n").replace(folder, "~")
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ lora-tui --run quickstart", style="bold"))
    console.print(Text.from_ansi(shown.strip("\n")))
    target.parent.mkdir(exist_ok=True)
    console.save_svg(str(target), title="lora-tui")


if __name__ == "__main__":
    main()

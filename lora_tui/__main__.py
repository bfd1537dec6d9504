"""``python -m lora_tui`` is the same program as ``lora-tui``."""

from lora_tui.cli.console_script import main

main()

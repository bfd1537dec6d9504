"""What lies over a mode and is answered: questions, forms and sheets."""

from textual.await_complete import AwaitComplete
from textual.screen import ModalScreen, ScreenResultType


class Dialog(ModalScreen[ScreenResultType]):
    """A screen over a mode that is answered once: two keys pressed at once may both be meant for it.

    The second arrives when the first has closed it. Textual's `dismiss` would then close what lies below, and ends the
    app where nothing may be closed there.
    """

    def dismiss(self, result: ScreenResultType | None = None) -> AwaitComplete:
        """Close it with a result; does nothing when it is closed already, or lies under another."""
        if not self.is_open:
            return AwaitComplete()
        return super().dismiss(result)

    @property
    def is_open(self) -> bool:
        """Whether it is on top, so that an answer is for it."""
        return self.is_current and self.app.screen is self

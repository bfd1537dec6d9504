"""Bases of the forms over a few keys of the configuration: Chat's decoding, and those of the first start."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Button, Input, Label, Static

from lora_tui.config.explain import format_value, parse_edit
from lora_tui.config.keys import settings_value
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.written import left_to_recipe
from lora_tui.errors import LoraTuiError
from lora_tui.protocol.backend import ForecastText
from lora_tui.text import one_line
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.text import DIM, safe_line, safe_text, styled
from lora_tui.tui.views.runs import forecast_lines
from lora_tui.tui.widgets.panel import set_title
from lora_tui.tui.widgets.path_input import Kind, PathChoice, PathInput

_PAUSE = 0.3
"""Seconds without a key after which the plan is made anew."""


class SettingsForm(Dialog[Settings | None]):
    """Form of a few keys, checked as the configuration is; returns settings with their values, None when cancelled.

    A field that is left as it was changes nothing: its key counts as written only if it was before.

    Subclasses lay out `fields` (a field for each of `KEYS`, with its value) and `problem`, which says what is invalid.
    """

    FORM_TITLE: ClassVar[str] = ""
    KEYS: ClassVar[Collection[str]] = ()
    """Dotted keys, from top to bottom."""

    AUTO_FOCUS = "Input"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
    ]

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self.fields = {name: self.make_field(name, self._value(name)) for name in self.KEYS}
        self.problem = Static("", markup=False)

    def make_field(self, name: str, value: str) -> Input:
        """Return the field of a key, with its value."""
        return Input(value, compact=True)

    def _value(self, name: str) -> str:
        """The value that a key has, as its field shows it."""
        return format_value(name, settings_value(self._settings, name))

    def action_submit(self) -> None:
        """Check all fields together, and return the settings when they are valid."""
        try:
            typed = {name: field.value for name, field in self.fields.items() if field.value != self._value(name)}
            changes = {name: parse_edit(name, value) for name, value in typed.items()}
            settings = with_values(self._settings, changes)
        except LoraTuiError as error:
            self.problem.update(styled(("✗ ", "bold $error"), safe_text(str(error))))
            return
        self.dismiss(settings)


@dataclass(frozen=True, slots=True)
class FormField:
    """A field of a `StartForm`: its label, what is said of it while it has the focus, and the path it takes, if any."""

    label: str
    help: str
    path: Kind | None = None


class StartForm(SettingsForm):
    """What a run needs before it can begin, with its plan below the fields, made anew while one types.

    Only what was changed is set: a key that is left as it was counts as not written. `initial` has values that fields
    begin with in place of the settings' own; `forecast` makes the plan. What is typed goes into `typed` at once, and
    stands in the fields again when the form is opened with it another time.
    """

    KEYS: ClassVar[Mapping[str, FormField]] = {}

    AUTO_FOCUS = ""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back", show=False),
        Binding("ctrl+s", "submit", "Start", show=False, priority=True),
    ]

    def __init__(
        self,
        settings: Settings,
        initial: Mapping[str, str],
        forecast: Callable[[Settings], Awaitable[ForecastText]],
        typed: dict[str, str],
    ) -> None:
        super().__init__(settings)
        for name, value in {**initial, **typed}.items():
            field = self.fields[name]
            if isinstance(field, PathInput):
                field.guess(value)
            else:
                field.value = value
        for name, field in self.fields.items():
            if left_to_recipe(settings, name):
                field.placeholder = "chosen for this machine and your data"
        self._forecast = forecast
        self._initial = initial
        self._typed = typed
        self._problems = {name: Static("", markup=False, classes="field-problem") for name in self.KEYS}
        self._help = Static("", markup=False, classes="form-help")
        self._below = Static("", markup=False)
        self._plan: ForecastText | None = None
        self._choices: tuple[str, Content] | None = None
        """Title and text of the paths that can be chosen; they stand in the place of the plan."""
        self._timer: Timer | None = None
        self._was_submitted = False
        self._field_problems: Mapping[str, str] = {}

    def make_field(self, name: str, value: str) -> Input:
        """Return the field of a key: a path's completes it."""
        kind = self.KEYS[name].path
        return super().make_field(name, value) if kind is None else PathInput(value, kind)

    def _value(self, name: str) -> str:
        """The value that a key has, as its field shows it; empty where it is left to be chosen for the run."""
        return "" if left_to_recipe(self._settings, name) else super()._value(name)

    def compose(self) -> ComposeResult:
        """Fields, what the focused one is, the plan, and how to begin."""
        with titled(Vertical(classes="dialog -wide-dialog -form"), self.FORM_TITLE):
            for name, field in self.fields.items():
                with Horizontal(classes="field"):
                    yield Label(Content(self.KEYS[name].label))
                    yield field
                yield self._problems[name]
            yield self._help
            plan = VerticalScroll(self._below, classes="box", id="form-plan")
            plan.can_focus = False
            yield titled(plan, "Plan")
            yield self.problem
            with Horizontal(classes="form-end"):
                yield Button(Content(" Start "), id="form-start", compact=True)
                keys = (("ctrl+s", "start"), ("enter", "next"), ("tab", "complete"), ("escape", "back"))
                yield Static(styled(*(part for key, word in keys for part in ((key, "bold $accent"), f" {word}  "))))

    def on_mount(self) -> None:
        """Focus the first field that is to be filled, and make the plan."""
        self.first_field.focus()
        self._plan_soon()

    @property
    def first_field(self) -> Input:
        """The field to begin with: the first path that is not there yet, else the first field."""
        fields = list(self.fields.values())
        return next((field for field in fields if isinstance(field, PathInput) and not field.is_there), fields[0])

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Say what the field with the focus is for."""
        about = next((self.KEYS[name].help for name, field in self.fields.items() if field is event.widget), "")
        self._help.update(Content.styled(about, DIM))

    def field_problem(self, name: str, settings: Settings) -> str | None:
        """Return what is known to fail because of a field's value, in one line; None where nothing is."""
        return None

    # Values

    def _changes(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The values of the fields that were changed, and what is wrong with those that hold none."""
        changes: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for name, field in self.fields.items():
            if isinstance(field, PathInput) and not field.path:
                problems[name] = f"Which {self.KEYS[name].path}? Type it, or tab takes one that is here."
                continue
            if field.value == self._value(name):
                continue
            try:
                # A path is what was typed, whatever signs it has.
                changes[name] = field.path if isinstance(field, PathInput) else parse_edit(name, field.value)
            except LoraTuiError as error:
                problems[name] = str(error)
        return changes, problems

    def _read(self) -> tuple[Settings | None, dict[str, str], str]:
        """The settings as the fields have them, what is wrong by field, and with all of them together."""
        changes, problems = self._changes()
        try:
            settings = with_values(self._settings, changes)
        except LoraTuiError as error:
            return None, problems, str(error)
        known = {name: words for name in self.KEYS if (words := self.field_problem(name, settings))}
        problems = known | problems
        return settings, problems, ""

    def _show_problems(self, problems: Mapping[str, str], together: str) -> None:
        self._field_problems = problems
        self._show_field_problems()
        self.problem.display = bool(together)
        self.problem.update(styled(("✗ ", "bold $error"), safe_text(together)) if together else "")

    def _show_field_problems(self) -> None:
        """Show what is wrong with each field; a path that can still become one of those listed is not wrong."""
        for name, line in self._problems.items():
            field = self.fields[name]
            in_the_making = self._choices is not None and field.has_focus and bool(field.value)
            words = "" if in_the_making else self._field_problems.get(name, "")
            line.display = bool(words)
            line.update(styled(("✗ ", "bold $error"), safe_line(words, 160)))

    # The plan

    @on(Input.Changed)
    def _note_typed(self, event: Input.Changed) -> None:
        """Keep what is typed: escape leaves the form, and it may be opened again."""
        name = next(name for name, field in self.fields.items() if field is event.input)
        if event.value == self._initial.get(name, self._value(name)):
            self._typed.pop(name, None)
        else:
            self._typed[name] = event.value
        self._plan_soon()

    def _plan_soon(self) -> None:
        """Make the plan anew once the typing pauses."""
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(_PAUSE, lambda: self.run_worker(self._make_plan(), group="plan", exclusive=True))

    async def _make_plan(self) -> None:
        settings, problems, together = self._read()
        if not self._was_submitted:  # nobody is told off for a field that is still to be filled
            problems = {name: words for name, words in problems.items() if self.fields[name].value}
        self._show_problems(problems, together)
        if settings is None or any(isinstance(field, PathInput) and not field.path for field in self.fields.values()):
            return
        try:
            forecast = await self._forecast(settings)
        except LoraTuiError as error:
            forecast = ForecastText((), (str(error),))
        for choice in forecast.choices:
            if choice.key in self.fields:
                self.fields[choice.key].placeholder = one_line(f"{choice.value}, chosen for this run", 60)
        self._plan = forecast
        self._show_below()

    def on_resize(self) -> None:
        """Break the plan's lines anew, once they have their new room."""
        self.call_after_refresh(self._show_below)

    def _plan_shown(self) -> tuple[str, Content]:
        """The plan's title and its lines."""
        if self._plan is None:
            return "Plan", Content()
        title = "Plan" if self._plan.blocker is None else "Plan · cannot start yet"
        room = self._below.content_size.width
        return title, Content("\n").join(forecast_lines(self._plan, room))

    @on(PathInput.Listed)
    def _show_choices(self, event: PathInput.Listed) -> None:
        """Show the paths that can be chosen in the place of the plan."""
        self._choices = None
        if event.choices:
            top = max(0, (event.cursor or 0) - 5)
            rows = [
                _choice_line(choice, chosen=number == event.cursor)
                for number, choice in enumerate(event.choices[top : top + 20], top)
            ]
            self._choices = "Here · tab takes the first, ↓ and enter another", Content("\n").join(rows)
        self._show_field_problems()
        self._show_below()

    def _show_below(self) -> None:
        title, content = self._choices or self._plan_shown()
        set_title(self.query_one("#form-plan"), title)
        self._below.update(content)

    # Keys

    def action_submit(self) -> None:
        """Check all fields together, and return the settings when they are valid."""
        settings, problems, together = self._read()
        self._was_submitted = True
        self._show_problems(problems, together)
        if problems:
            self.fields[next(name for name in self.KEYS if name in problems)].focus()
        elif settings is not None:
            self.dismiss(settings)

    def on_button_pressed(self) -> None:
        """Take enter or a click on the button."""
        self.action_submit()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go on to the next field; from the last, to the button."""
        later = list(self.fields.values())
        later = later[later.index(event.input) + 1 :]
        (later[0] if later else self.query_one("#form-start")).focus()


def _choice_line(choice: PathChoice, *, chosen: bool) -> Content:
    """A path of the list with what is there."""
    mark = "▸ " if chosen else "  "
    return styled((mark, "$accent"), safe_line(choice.value, 60, "bold" if chosen else ""), (f"  {choice.note}", DIM))

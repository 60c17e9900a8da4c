"""The command lines and lines of Python that give the numbers which a page shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from circuits.checkpoints import loading_options
from circuits.errors import CircuitsError
from circuits.explorer.pieces import Options, Take
from circuits.explorer.subject import Subject, words
from circuits.prompts.user import Row, from_rows

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk, Followed

Words = Sequence[str | int]


@dataclass(frozen=True, eq=False)
class Taking:
    """How a view is said in commands and in Python.

    Attributes:
        desk: whose model it is.
        about: what was looked at.
        pair: the tokens that were followed, if the question is about them.
        paired: whether the question is about the contrast, too.
    """

    desk: Desk
    about: Subject
    pair: Followed | None = None
    paired: bool = False

    def take(
        self, commands: Sequence[Words], python: Sequence[str], *, edited: Sequence[str] = ()
    ) -> Take:
        """What to take along: these commands, to which prompt and model are added, and these lines.

        In the lines, `asked` are options that say the prompt, `model` the model. With edits in the
        tray there is no command; then the lines run under them, or are those `edited` instead,
        which find a `desk` and a `view`.
        """
        if self.about.view.edits:
            return Take("", "\n".join([*self._edited(), *(edited or _under(python))]))
        texts = self._texts
        lines = ["import circuits", "", self._loading]
        if texts is None:
            lines += [*self._of_view(), *self._prompts()]
        else:
            lines.append(f"asked = {texts!r}")
        return Take(self._commands(commands, texts), "\n".join([*lines, *python]))

    def of_text(self, commands: Sequence[Words], python: Sequence[str]) -> Take:
        """The same of questions that take one prompt as `text` and know nothing of answers.

        The prompt is the argument of the commands, and of the lines a variable, as a whole.
        """
        text = self.about.view.prompt
        if self.desk.model.tokenizer is None:
            return Take("", "\n".join(["import circuits", self._loading, *self._of_view()]))
        lines = ["import circuits", "", self._loading, f"text = {text!r}"]
        if self.about.view.edits:
            return Take("", "\n".join([*self._edited(), f"text = {text!r}", *_under(python)]))
        loading = self._model
        said = [
            shlex.join(["circuits", *map(str, command), *loading, "--", text])
            for command in commands
            if loading
        ]
        return Take("\n".join(said), "\n".join([*lines, *python]))

    def of_model(self, commands: Sequence[Words], python: Sequence[str]) -> Take:
        """The same of questions that are about the model alone."""
        loading = self._model
        said = [shlex.join(["circuits", *map(str, each), *loading]) for each in commands]
        lines = ["import circuits", "", self._loading, *python]
        return Take("\n".join(said) if loading else "", "\n".join(lines))

    def at_desk(self, python: Sequence[str]) -> Take:
        """Lines that find a `desk` and a `view`, for what no command gives."""
        return Take(
            "", "\n".join(["import circuits", "", self._loading, *self._of_view(), *python])
        )

    def again(self, question: str, options: Options) -> list[str]:
        """Lines that ask the desk the same question."""
        given = dict(options.given)
        return [f"pieces = list(desk.ask({question!r}, view, {given!r}))"]

    @cached_property
    def _texts(self) -> Mapping[str, str] | None:
        """The prompt as options in texts, if these are read as the same tokens; else None."""
        about, model, text = self.about, self.desk.model, self.about.text
        if text is None:
            return None
        said = {"prompt": text}
        twin = about.require_twin() if self.paired else None
        if twin is not None:
            assert model.tokenizer is not None
            said["corrupted"] = model.tokenizer.decode(twin[1:] if about.has_start else twin)
        if self.pair is not None:
            ids = self.pair.answer, self.pair.distractor
            said |= dict(zip(("answer", "distractor"), words(model, ids), strict=True))
        row = Row("it", text, said.get("corrupted"), said.get("answer"), said.get("distractor"))
        try:
            read = from_rows(model, [row], "prompt")
        except CircuitsError:
            return None
        same = tuple(read.tokens[0].tolist()) == about.cut
        if twin is not None:
            same &= read.corrupted is not None and tuple(read.corrupted[0].tolist()) == twin
        if self.pair is not None:
            both = read.answers, read.distractors
            same &= None not in both and [int(each[0]) for each in both if each is not None] == [
                *ids
            ]
        return said if same else None

    @property
    def _model(self) -> list[str]:
        return self.loading_of(self.desk)

    @staticmethod
    def loading_of(desk: Desk) -> list[str]:
        """The options of a command that loads this model; none where no command can."""
        in_memory = desk.changed or desk.model.source == "built in memory"
        return [] if in_memory else loading_options(desk.model)

    @property
    def _loading(self) -> str:
        if not self._model:
            return "# model: the one that you edited"
        options = self._model
        more = "" if len(options) == 2 else f", revision={options[3]!r}"
        return f"model = circuits.load({options[1]!r}{more})"

    def _commands(self, commands: Sequence[Words], texts: Mapping[str, str] | None) -> str:
        if texts is None or not self._model:
            return ""
        said = [word for name, text in texts.items() for word in (f"--{name}", text)]
        return "\n".join(
            shlex.join(["circuits", *map(str, command), *said, *self._model])
            for command in commands
        )

    def _of_view(self) -> list[str]:
        lens = "" if self.desk.lens_path is None else f", lens={str(self.desk.lens_path)!r}"
        return [
            "from circuits.explorer.desk import Desk",
            "from circuits.explorer.view import View",
            "",
            f"desk = Desk(model{lens})",
            f"view = View.read({self.about.view.json()!r})",
            "about = desk.subject(view)",
        ]

    def _prompts(self) -> list[str]:
        if self.pair is None:
            return ["asked = {'prompt': [list(about.cut)]}"]
        answer, distractor = self.pair.answer, self.pair.distractor
        more = ", paired=True" if self.paired else ""
        return [f"asked = {{'task': about.prompts({answer}, {distractor}{more})}}"]

    def _edited(self) -> list[str]:
        return ["import circuits", "", self._loading, *self._of_view(), *self._prompts()]


def text_of(about: Subject) -> str:
    """The whole prompt as text, for questions that take one.

    Raises:
        CircuitsError: for a model without a tokenizer.
    """
    if about.model.tokenizer is None:
        raise CircuitsError(
            f"{about.model.cfg.model_name} has no tokenizer, and this question is asked of a text; "
            "the map, heads and MLPs take token ids"
        )
    return about.view.prompt


def _under(python: Sequence[str]) -> list[str]:
    """The same lines under the edits of the tray."""
    return ["with desk.under(desk.tray(about)):", *(f"    {line}" for line in python)]

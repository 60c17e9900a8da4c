"""A model's defaults, such as whether texts get a start token, set for the length of a block."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

from circuits.errors import CircuitsError, nearest

USE_DEFAULT_VALUE = None


def get_nested_attr(obj: Any, attr_str: str) -> Any:
    """The attribute at a dotted path."""
    for name in attr_str.split("."):
        obj = getattr(obj, name)
    return obj


def set_nested_attr(obj: Any, attr_str: str, value: Any) -> None:
    """Set the attribute at a dotted path."""
    *path, last = attr_str.split(".")
    setattr(get_nested_attr(obj, ".".join(path)) if path else obj, last, value)


def override_or_use_default_value(default_flag: Any, override: Any = None) -> Any:
    """`override` if it is given, else the default."""
    return default_flag if override is None else override


class LocallyOverridenDefaults:
    """A ``with`` block in which a model has other values of `prepend_bos` and `padding_side`."""

    _PLACES: ClassVar[dict[str, str]] = {
        "prepend_bos": "cfg.default_prepend_bos",
        "padding_side": "tokenizer.padding_side",
    }
    _VALUES: ClassVar[dict[str, tuple[Any, ...]]] = {
        "prepend_bos": (None, True, False),
        "padding_side": (None, "left", "right"),
    }

    def __init__(self, model: Any, **overrides: Any) -> None:
        self.model = model
        self.before: dict[str, Any] = {}
        self.overrides = dict(overrides)
        for name, value in overrides.items():
            allowed = self._VALUES.get(name, ())
            if value not in allowed:
                names = " or ".join(map(repr, allowed or self._VALUES))
                raise CircuitsError(
                    f"{name}={value!r}{nearest(name, self._PLACES)}: choose {names}"
                )

    def __enter__(self) -> None:
        for name, value in self.overrides.items():
            if value is None or (name == "padding_side" and self.model.tokenizer is None):
                continue
            place = self._PLACES[name]
            self.before[place] = deepcopy(get_nested_attr(self.model, place))
            set_nested_attr(self.model, place, value)

    def __exit__(self, *_: object) -> None:
        for place, value in self.before.items():
            set_nested_attr(self.model, place, value)

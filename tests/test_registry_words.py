"""Arguments in words mean what the same arguments in Python do."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from circuits.errors import CircuitsError
from circuits.registry import arguments, find, in_words, members, parsed


@pytest.mark.parametrize(
    ("words_", "expected"),
    [
        (["all-heads=yes", "n=5", "task=ioi"], {"all_heads": True, "n": 5, "task": "ioi"}),
        (["component=m0", "component=a0.h1"], {"component": ["m0", "a0.h1"]}),
        (["--all_heads=False", "memory=4G"], {"all_heads": False, "memory": "4G"}),
        (["prompt=a = b"], {"prompt": ["a = b"]}),
    ],
)
def test_options_in_words(words_: list[str], expected: dict[str, Any]) -> None:
    assert parsed(find("ablate"), words_) == expected
    assert parsed(find("ablate"), in_words(expected)) == expected


def test_options_of_several_types() -> None:
    lens, patch = find("logit_lens"), find("patch")
    assert parsed(lens, ["positions=3"]) == {"positions": 3}
    assert parsed(lens, ["positions=all"]) == {"positions": "all"}
    assert parsed(patch, ["direction=noise"]) == {"direction": "noise"}
    with pytest.raises(CircuitsError, match="takes last, all, a whole number; did you mean 'all'"):
        parsed(lens, ["positions=al"])


def test_words_and_values_go_together() -> None:
    recipe = find("ablate")
    given = arguments(recipe, ["n=5"], {"all_heads": True}, without=("plan",))
    assert given == {"n": 5, "all_heads": True}
    with pytest.raises(CircuitsError, match="n was given twice"):
        arguments(recipe, ["n=5"], {"n": 5})
    with pytest.raises(CircuitsError, match="plan is no option of ablate"):
        arguments(recipe, [], {"plan": True}, without=("plan",))
    with pytest.raises(CircuitsError, match="logit-lens needs prompt; set prompt=..."):
        arguments(find("logit-lens"), [], {})


def test_the_members_a_union() -> None:
    assert members(int | Literal["a", "b"]) == [int, Literal["a", "b"]]
    assert members(list[str]) == [list[str]]

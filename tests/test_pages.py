"""Pages: whole, self-contained, always the same, and safe whatever the prompt says."""

from __future__ import annotations

import base64
import inspect
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from page_samples import attention, effects, heads, lens, saying
from typer.testing import CliRunner

from circuits.cli import app
from circuits.errors import CircuitsError
from circuits.pages import inline, page, require_page, save_page, viewers
from circuits.pages.documents import embedded
from circuits.pages.numbers import rounded
from circuits.registry import analyses, beside
from circuits.result import Result

ATTACKS = (
    "</script><script>document.title = 'broken'</script>",
    "<!-- <script>",
    "--></title><img src=x onerror=alert(1)>",
    "]]>&lt;\u2028\x00\u202e'\"",
)
SAMPLES = {"effects": effects, "attention": attention, "heads": heads, "lens": lens}


class Elements(HTMLParser):
    """All elements of a page, with the text of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])

    @property
    def shape(self) -> list[tuple[str, list[str]]]:
        """Tags and the names of their attributes, which no text may change."""
        drawn = {"svg", "g", "path", "defs", "use", "rect", "clippath", "image", "pattern"}
        return [(tag, sorted(attrs)) for tag, attrs in self.found if tag not in drawn]


def strings(content: Any) -> list[str]:
    """All texts in some JSON."""
    if isinstance(content, dict):
        content = [*content.values()]
    if isinstance(content, list):
        return [text for one in content for text in strings(one)]
    return [content] if isinstance(content, str) else []


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_page_is_one_whole_document(sample: str) -> None:
    result = SAMPLES[sample]()
    html = page(result)
    elements = Elements(html)
    assert html.startswith("<!DOCTYPE html>")
    assert html.rstrip().endswith("</html>")
    assert len(elements.scripts) == 2
    assert result.title in elements.texts
    assert result.provenance.command in elements.texts
    columns = [column["name"] for column in elements.data["table"]["columns"]]
    assert columns == list(result.frame.columns)
    assert ("view" in elements.data) == (sample != "effects")
    assert ("svg" in dict(elements.found)) == (sample == "effects")


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_page_asks_nothing_of_the_network(sample: str) -> None:
    html = page(SAMPLES[sample]())
    for tag, attributes in Elements(html).found:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\(['\"]?(?!#)", html)
    assert "@import" not in html
    assert "default-src 'none'" in html


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_same_result_gives_the_same_bytes(sample: str) -> None:
    assert page(SAMPLES[sample]()) == page(SAMPLES[sample]())


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_no_text_changes_the_document(sample: str, attack: str) -> None:
    plain = Elements(page(saying(SAMPLES[sample](), "harmless")))
    attacked = Elements(page(saying(SAMPLES[sample](), attack)))
    assert attacked.shape == plain.shape
    assert attacked.scripts[1] == plain.scripts[1]
    assert attack in strings(attacked.data)


@given(st.text())
def test_data_stays_inside_its_element(text: str) -> None:
    html = embedded({text: [text]})
    assert not set("<>&") & set(html)
    assert html.isascii()
    assert json.loads(html) == {text: [text]}


@pytest.mark.slow
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_is_data_and_title(text: str) -> None:
    result = saying(attention(), text)
    elements = Elements(page(result))
    assert elements.data["view"]["tokens"][1] == text
    assert elements.shape == Elements(page(saying(attention(), "harmless"))).shape


def test_a_broken_character_is_written_as_one(tmp_path: Path) -> None:
    result = replace(effects(), title="half \ud83d of one")
    path = save_page(page(result), tmp_path / "page.html")
    assert "half &#55357; of one" in path.read_text(encoding="utf-8")


def test_the_table_says_what_the_result_says() -> None:
    result = effects()
    table = Elements(page(result)).data["table"]
    columns = dict(zip((c["name"] for c in table["columns"]), table["rows"], strict=True))
    assert columns["component"] == result.frame["component"].tolist()
    assert np.allclose(columns["value"], result.frame["value"], rtol=1e-5)
    about = {column["name"]: column for column in table["columns"]}
    assert about["component"]["meaning"] == "what was ablated"
    assert about["stderr"]["meaning"].startswith("standard error")
    assert [about[name]["kind"] for name in ("component", "layer", "value", "sure")] == [
        "text",
        "number",
        "number",
        "truth",
    ]


def test_long_tables_are_cut_and_say_so() -> None:
    table = Elements(page(effects(), rows=2)).data["table"]
    assert [len(column) for column in table["rows"]] == [2] * len(table["columns"])
    assert table["n_rows"] == len(effects().frame)


def test_missing_numbers_are_null() -> None:
    frame = effects().frame.assign(stderr=np.nan)
    html = page(replace(effects(), frame=frame))
    table = Elements(html).data["table"]
    where = [column["name"] for column in table["columns"]].index("stderr")
    assert set(table["rows"][where]) == {None}


def test_what_cannot_be_drawn_is_said() -> None:
    lines = attention().frame.assign(component=[f"a0.h{i}" for i in range(len(attention().frame))])
    about = replace(effects().provenance, analysis="another")
    many = Result(
        lines.loc[lines.index.repeat(20)],
        unit="share",
        title="too many bars",
        provenance=about,
        axes=("component",),
    )
    html = page(many)
    assert "No figure: a bar chart shows 1 to" in html
    assert "svg" not in dict(Elements(html).found)


def test_every_viewer_is_an_analysis_with_a_template() -> None:
    folder = Path(inspect.getfile(viewers)).parent
    templates = {path.stem for path in (folder / "templates").glob("*.html")} - {"page"}
    names = {recipe.function for recipe in analyses().values()}
    modules = {path.stem for path in folder.glob("*.py")}
    drawn = {"circuit"}  # has a page of its own, too
    for name in names & modules:
        module = beside(name, "circuits.pages")
        assert module is not None
        assert isinstance(module.VIEWER, viewers.Viewer)
        drawn.add(module.VIEWER.template or name)
    assert templates == drawn


def test_a_result_without_the_viewers_columns_is_a_plain_page() -> None:
    bare = replace(attention(), frame=attention().frame.drop(columns="key_token"), view="patterns")
    assert "view" not in Elements(page(bare)).data


def test_the_attention_viewer_gets_every_weight() -> None:
    result = attention()
    view = Elements(page(result)).data["view"]
    starts, keys, weights = (
        _array(view[name], dtype)
        for name, dtype in (("starts", "<u4"), ("keys", "<u2"), ("weights", "<u2"))
    )
    n = len(view["tokens"])
    for row in result.frame.itertuples():
        at = view["heads"].index(row.component) * n + row.query
        found = dict(zip(keys[starts[at] :], weights[starts[at] : starts[at + 1]], strict=False))
        assert found[row.key] / 65535 == pytest.approx(row.value, abs=1e-5)
    assert len(keys) == len(result.frame)


def _array(text: str, dtype: str) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype)


def test_the_lens_viewer_gets_cells_stage_by_stage() -> None:
    result = lens()
    view = Elements(page(replace(result, frame=result.frame.sample(frac=1, random_state=0)))).data[
        "view"
    ]
    row = result.frame[(result.frame["stage"] == "m0") & (result.frame["position"] == 2)].iloc[0]
    k = view["stages"].index("m0") * len(view["positions"]) + view["positions"].index(2)
    assert [column[k] for column in view["tokens"]] == [row["token"], row["token_2"]]
    assert view["shares"][0][k] == pytest.approx(row["probability"], rel=1e-3)
    assert view["numbers"]["kl"]["values"][k] == pytest.approx(row["kl"], rel=1e-3)


def test_the_lens_follows_tokens() -> None:
    frame = lens().frame
    asked = [frame.assign(target=t, value=frame["kl"] / n) for t, n in ((" on", 2), ("<", 4))]
    many = pd.concat(asked).sort_values(["position"], kind="stable")
    curves = {"view": "curves", "axes": ("position", "target", "stage")}
    few = many[many["position"] < 2]
    elements = Elements(page(replace(lens(), frame=few, **curves)))
    view = elements.data["view"]
    assert view["tokens"] == Elements(page(_before(2))).data["view"]["tokens"]
    followed = view["numbers"]["target_1_probability"]
    assert followed["name"] == "probability of '<'"
    assert followed["values"] == [x / 4 for x in view["numbers"]["kl"]["values"]]
    assert "svg" in dict(elements.found)


def _before(position: int) -> Result:
    return replace(lens(), frame=lens().frame.query("position < @position"))


def test_the_heads_viewer_gets_scores_kind_by_kind() -> None:
    view = Elements(page(heads())).data["view"]
    induction, successor = view["kinds"]
    assert view["heads"] == ["a0.h0", "a0.h1", "a1.h0", "a1.h1"]
    assert view["names"][1] == "induction"
    assert induction["clear"] == [False, True, False, True]
    assert induction["numbers"]["cost"] == [0.0, 1.5, -0.2, 0.7]
    value = heads().frame["value"][2]
    assert induction["numbers"]["value"][2] == pytest.approx(value, rel=1e-3)
    assert induction["about"]["cost_unit"] == "nats per token"
    assert successor["numbers"]["value"] == [None] * 4
    assert successor["note"] == "no series of single tokens"


def test_what_is_known_of_queries_is_averaged_over_each_head() -> None:
    frame = attention().frame.assign(entropy_share=0.25, left_out=0.01)
    frame.loc[frame["component"] == "a1.h1", "entropy_share"] = np.nan
    view = Elements(page(replace(attention(), frame=frame))).data["view"]
    spread, left_out = view["averages"].values()
    assert spread == [0.25, 0.25, 0.25, None]
    assert left_out == [0.01] * 4


def test_inline_is_apart_from_the_notebook() -> None:
    html = inline(saying(attention(), ATTACKS[0]), height=300)._repr_html_()
    [(tag, attributes)] = Elements(html).found
    assert tag == "iframe"
    assert attributes["sandbox"] == "allow-scripts"
    assert attributes["srcdoc"] == page(saying(attention(), ATTACKS[0]), rows=200)
    with pytest.raises(CircuitsError, match="at least one pixel"):
        inline(effects(), 0)


def test_numbers_are_short() -> None:
    assert rounded(np.array([0.123456, np.inf, np.nan, 2])) == [0.1235, None, None, 2.0]


@pytest.mark.parametrize("name", ["page.png", "page", "html"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(CircuitsError, match=r"no page's name; end it in \.html"):
        require_page(name)


def test_a_page_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(CircuitsError, match="cannot be written"):
        save_page("<p>", tmp_path / "nowhere" / "page.html")
    (tmp_path / "page.html").mkdir()
    with pytest.raises(CircuitsError, match="cannot be written"):
        save_page("<p>", tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_command_line_writes_pages(tmp_path: Path) -> None:
    target = tmp_path / "lens.html"
    bad = CliRunner().invoke(app, ["logit-lens", "aA", "--html", "lens.png", "--model", "nowhere"])
    assert bad.exit_code == 2
    assert "no page's name" in bad.output
    ran = CliRunner().invoke(
        app, ["logit-lens", "aA", "--model", "compiled", "--html", str(target)]
    )
    assert ran.exit_code == 0, ran.output
    assert f"wrote {target}" in ran.stderr
    assert Elements(target.read_text(encoding="utf-8")).data["view"]["after"] == ["A"]

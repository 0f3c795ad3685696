"""``diff --html``: what a browser makes of the page, whatever is in the files, and when it is written."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from ckptconv.cli.output import printable
from tests.cli.report.browser import Browser, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Process, Run

HOSTILE = [
    "</script><script>window.hacked = 1</script>", "<img src=x onerror=window.hacked=2>", "\"'><svg onload=hack()>",
    "</style></title></textarea><h1>hi", "<!--", "]]>", "{{ 7 * 7 }}", "{% raw %}", "&lt;b&gt;&amp;", "$x^2$",
    "nul\x00", "esc\x1b[31m", "bidi\u202eabc", "lone\udc80", "line\nbreak", "javascript:hack()", "#000002 url(#all-p1)",
    "тензор.层.0", "a" * 5000,
]  # fmt: skip

CONTRAST = """
const lum = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
return [...document.querySelectorAll(".legend span")].map((e) => {
  const style = getComputedStyle(e);
  return [e.className, ratio(lum(style.color), lum(style.backgroundColor))];
});
"""


def network(layers: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {
        f"model.layers.{i}.{name}.weight": torch.randn(8, 8, generator=generator)
        for i in range(layers)
        for name in ("q", "k", "v", "up", "down")
    }
    return {"model.embed.weight": torch.randn(10, 8, generator=generator), **state, "model.norm.weight": torch.ones(8)}


def changed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Another prefix, q, k and v fused, `down` other than it was, the embedding cast, the norm gone, a head there."""
    after: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        new = name.replace("model.", "net.")
        if ".q." in name:
            parts = [state[name.replace(".q.", f".{part}.")] for part in "qkv"]
            after[new.replace(".q.", ".qkv.")] = torch.cat(parts)
        elif ".down." in name:
            after[new] = tensor * (1 + 10.0 ** -(1 + int(name.split(".")[2]) % 6))
        elif ".k." not in name and ".v." not in name and "norm" not in name:
            after[new] = tensor.half() if "embed" in name else tensor
    return after | {"net.head.weight": torch.ones(3, 5)}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two checkpoints that differ in every way that the page has a place for."""
    a, b = tmp_path / "a.pth", tmp_path / "b.pth"
    state = network()
    torch.save({"epoch": 3, "hidden": [512, 256], "state_dict": state}, a)
    torch.save({"epoch": 3.0, "hidden": [512, 128], "state_dict": changed(state)}, b)
    return a, b


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(tmp_path_factory.mktemp("profile")) as found:
        yield found


def written(run: Run, a: Path, b: Path, *options: str) -> Path:
    page = a.parent / "page.html"
    result = run("diff", a, b, "--html", page, "--force", *options)
    assert result.exit_code in (0, 1), result.stderr
    return page


def test_a_browser_shows_what_changed_and_asks_for_nothing(
    run: Run, browser: Browser, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    browser.emulate()
    page = written(run, *pair)
    browser.open(page)
    assert browser.texts("#verdict") == [run("diff", *pair).stdout.splitlines()[0]]
    edits = browser.texts("#edits td")
    assert edits[:3] == ["rename", "model.layers.{*} → net.layers.{*}", "×60"]
    assert edits[3:6] == ["concat", "net.layers.{*}.[q + k + v].weight → net.layers.{*}.qkv.weight", "×12"]
    assert browser.texts("#dtypes td")[:3] == ["F32 → F16", "rounding only", "1 tensor"]
    assert browser.texts("#one-sided td:nth-child(2)") == ["model.norm.weight", "net.head.weight"]
    assert browser.texts("#metadata td") == ["epoch", "int 3", "float 3.0", "hidden[1]", "256", "128"]
    rows = browser.shown_rows()
    assert len(rows) == 12 + 3
    assert rows[:2] == ["model.layers.0.down.weight", "model.layers.6.down.weight"]
    assert len(browser.texts("#histograms figure svg")) == 1
    assert len(browser.texts("#tensors td svg path")) == 13
    browser.screenshot(tmp_path / "page.png")
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


def test_the_heat_map_has_layers_by_parameters(run: Run, browser: Browser, pair: tuple[Path, Path]) -> None:
    browser.open(written(run, *pair))
    names = browser.texts("#heat tbody th")
    assert names == ["model.embed", *(f"model.layers.{i}" for i in range(12)), "model.norm", "net.head"]
    assert browser.texts("#heat thead th") == ["weight", *(f"{part}.weight" for part in ("q", "k", "v", "up", "down"))]
    assert browser.texts("#heat tbody tr:nth-child(2) td") == ["", "=", "=", "=", "=", "−1"]
    assert [browser.texts(f"#heat tbody tr:nth-child({i}) td")[0] for i in (1, 14, 15)] == ["−4", "−", "+"]


def test_the_search_filters_rows_from_the_keyboard(run: Run, browser: Browser, pair: tuple[Path, Path]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.emulate()
    browser.open(written(run, *pair))
    box = browser.driver.find_element(By.ID, "search")
    assert browser.texts("#matches") == ["15 rows"]
    box.send_keys("LAYERS.1 down")
    assert sorted(browser.shown_rows()) == [f"model.layers.{i}.down.weight" for i in (1, 10, 11)]
    assert browser.texts("#matches") == ["3 of 15 rows"]
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys("<nothing>")
    assert browser.shown_rows() == []
    box.send_keys(Keys.CONTROL, "a", Keys.DELETE)
    assert len(browser.shown_rows()) == 15
    button = browser.driver.find_element(By.CSS_SELECTOR, "#heat tbody tr:nth-child(3) button")
    button.send_keys(Keys.ENTER)
    assert browser.shown_rows() == ["model.layers.1.down.weight"]
    assert browser.run("return document.activeElement.id") == "search"
    assert browser.run("return [...document.querySelectorAll('.scroll')].every((e) => e.tabIndex === 0)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_can_be_read_in_light_and_dark_and_on_a_phone(
    run: Run, browser: Browser, pair: tuple[Path, Path], tmp_path: Path, scheme: str, width: int
) -> None:
    browser.emulate(scheme, width)
    browser.open(written(run, *pair))
    dark = browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(21, 22, 25)"
    assert dark is (scheme == "dark")
    assert browser.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert {kind: ratio for kind, ratio in browser.run(CONTRAST) if ratio < 4.5} == {}
    browser.screenshot(tmp_path / f"{scheme}-{width}.png")


def test_nothing_in_a_file_is_more_than_text_to_the_browser(run: Run, browser: Browser, tmp_path: Path) -> None:
    a, b = tmp_path / "<script>a.pth", tmp_path / "b&lt;.pth"
    names = {name: f"{name}.w" for name in HOSTILE}
    state = {full: torch.full((4,), i + 1.0) for i, full in enumerate(names.values())}
    meta = {name: name for name in HOSTILE}
    torch.save({**meta, "state_dict": state | {"gone" + name: torch.ones(2) for name in HOSTILE}}, a)
    torch.save({**meta, "x": HOSTILE, "state_dict": {name: t * 1.5 for name, t in state.items()}}, b)
    page = written(run, a, b)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page.read_text("utf-8"))
    browser.emulate()
    browser.open(page)
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return typeof window.hacked") == "undefined"
    assert browser.run("return document.scripts.length") == 1
    assert browser.run("return document.images.length") == 0
    assert browser.texts(".file") == [str(a), str(b)]
    shown = {printable(full) if len(full) < 100 else f"{full[:100]}…" for full in names.values()}
    assert shown <= set(browser.texts("#tensors tbody th"))
    assert browser.texts("h1 ~ h1") == []


def test_equal_files_make_a_page_that_says_so(run: Run, browser: Browser, pair: tuple[Path, Path]) -> None:
    browser.open(written(run, pair[0], pair[0].with_name("a.pth")))
    assert browser.texts("#verdict")[0].startswith("equal: 62 tensors")
    assert browser.texts("section") == []
    assert browser.complaints() == []


def test_thirty_thousand_tensors_make_a_page_that_opens(run: Run, browser: Browser, tmp_path: Path) -> None:
    one, other = torch.ones(2), torch.tensor([1.0, 1.001])
    names = [f"model.layers.{i}.experts.{j}.{part}" for i in range(100) for j in range(100) for part in ("a", "b", "c")]
    torch.save(dict.fromkeys(names, one), tmp_path / "a.pth")
    torch.save(dict.fromkeys(names, other), tmp_path / "b.pth")
    page = written(run, tmp_path / "a.pth", tmp_path / "b.pth")
    assert page.stat().st_size < 2_000_000
    browser.open(page)
    assert len(browser.shown_rows()) == 1000
    assert browser.texts("#tensors .left")[0].startswith("… and 29,000 more; ")
    assert len(browser.texts("#heat tbody tr")) <= 64


def test_the_same_difference_makes_the_same_bytes(process: Process, pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Whatever the hash seed, the user's matplotlibrc and the time zone are."""
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsvg.fonttype: path\naxes.grid: True\n")
    ours = {"PYTHONHASHSEED": "1"}
    theirs = {"PYTHONHASHSEED": "2", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "TZ": "Asia/Tokyo"}
    for name, setting in (("one", ours), ("two", theirs)):
        done = process("diff", *pair, "--html", tmp_path / f"{name}.html", env={**os.environ, **setting})
        assert (done.returncode, done.stderr) == (1, "")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_the_page_changes_neither_json_nor_text(run: Run, pair: tuple[Path, Path]) -> None:
    for options in ([], ["--json"]):
        plain, with_page = (
            run("diff", *pair, *options),
            run("diff", *pair, *options, "--html", pair[0].parent / "p.html"),
        )
        assert plain.stdout == with_page.stdout
        assert plain.exit_code == with_page.exit_code == 1
        (pair[0].parent / "p.html").unlink()


def test_a_page_that_is_there_stays_unless_forced(run: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    result = run("diff", *pair, "--html", page)
    assert (result.exit_code, page.read_text()) == (2, "mine")
    assert "--force" in result.stderr
    assert run("diff", *pair, "--html", page, "--force").exit_code == 1
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_a_diff_in_trouble_writes_no_page(run: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_bytes(pair[1].read_bytes()[:-400])
    page = tmp_path / "page.html"
    assert run("diff", pair[0], broken, "--html", page).exit_code == 2
    assert run("diff", pair[0], tmp_path / "none.pth", "--html", page).exit_code == 2
    assert not page.exists()
    page.write_text("mine")
    assert run("diff", pair[0], broken, "--html", page, "--force").exit_code == 2
    assert page.read_text() == "mine"


def test_a_page_never_replaces_a_checkpoint(run: Run, pair: tuple[Path, Path]) -> None:
    before = pair[1].read_bytes()
    result = run("diff", *pair, "--html", pair[1], "--force")
    assert (result.exit_code, pair[1].read_bytes()) == (2, before)
    assert "replace a checkpoint" in result.stderr
    assert run("diff", *pair, "--force").exit_code == 2


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_the_extra_the_hint_comes_before_anything_is_read(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = run("diff", tmp_path / "none.pth", tmp_path / "none.pth", "--html", tmp_path / "page.html")
    assert result.exit_code == 2
    assert repr(package) in result.stderr
    assert "hint: pip install 'ckptconv[report]'" in result.stderr

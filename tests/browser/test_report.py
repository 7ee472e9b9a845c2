"""The report as people meet it: opened from a disk in a browser, by mouse, keyboard and link."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mosaic_ray.config import job_from
from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.pages import publish_pages
from mosaic_ray.runtime.driver import run_job
from mosaic_ray.runtime.engine import InProcessEngine
from mosaic_ray.text import seen
from tests.browser.chromium import Chromium, Page

HOSTILE = (
    "<script>document.title='taken over'; alert(1)</script>",
    "</pre></details></script><img src=x onerror=\"alert(1);document.title='taken over'\">",
    "\u202egnp.exe \u200f nul \x00 escape \x1b[31m",
    "<svg onload=alert(1)> <a href='javascript:alert(1)' autofocus onfocus=alert(1)>x</a>",
    "a needle in a haystack",
)
SAMPLES = "[...document.querySelectorAll('.sample')]"
SHOWN = f"{SAMPLES}.filter(sample => sample.checkVisibility())"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a data set whose texts and file names are all hostile."""
    folder, out = tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("out")
    for place in range(3):
        rows = [
            {"instruction": f"{HOSTILE[n % 5]} and {n} of {place}", "output": f"{HOSTILE[(n + place) % 5]} {'so ' * n}"}
            for n in range(50)
        ]
        name = f"<img src=x onerror=alert({place})>.jsonl"
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    places = {"input": str(folder), "output": str(out), "tokenizer": str(tokenizer_path())}
    run_job(job_from({**places, "max_tokens": 600}, MosaicMethod), InProcessEngine, finish=publish_pages)
    return out / "report.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(chromium: Chromium, report: Path) -> Iterator[Page]:
    """The report, opened; at the end nothing has been fetched, complained of or asked."""
    opened = chromium.page()
    opened.look(width=1280)
    opened.open(report)
    yield opened
    title = opened.run("document.title")
    assert re.fullmatch(r"\d+ samples by mosaic-it", title)
    assert {address.partition("#")[0] for address in opened.requests} <= {report.as_uri(), "about:blank"}
    assert (opened.complaints, opened.dialogs) == ([], [])
    opened.ask("Page.close")


def rows(page: Page) -> list[dict[str, Any]]:
    """The samples of the page, as they say of themselves."""
    return list(page.run(f"{SAMPLES}.map(sample => ({{id: sample.id, text: sample.textContent, ...sample.dataset}}))"))


def shown(page: Page) -> list[str]:
    return list(page.run(f"{SHOWN}.map(sample => sample.id)"))


def fill(page: Page, field: str, value: str) -> None:
    """As a person would: the field has the focus, then text is typed or an option chosen."""
    place = f'document.querySelector("[data-filter={field}]")'
    if page.run(f"{place}.tagName") == "SELECT":
        page.run(f"{place}.value = {json.dumps(value)}")
        page.run(f"{place}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    else:
        page.run(f"{place}.focus(), {place}.select()")
        page.type(value)


def test_hostile_text_stays_text(page: Page) -> None:
    assert (
        page.run("document.images.length + document.querySelectorAll('iframe, a:not([href]), main script').length") == 0
    )
    assert page.run("document.scripts.length") == 1
    text = page.run("document.body.textContent")
    for hostile in HOSTILE:
        assert seen(hostile) in text
    assert page.run("[...document.querySelectorAll('a')].filter(a => !/^(#|README.md$|manifest.json$)/.test("
                    "a.getAttribute('href'))).length") == 0  # fmt: skip


def test_a_script_that_is_not_the_pages_own_does_not_run(chromium: Chromium, report: Path, tmp_path: Path) -> None:
    """Even if a text were taken for markup one day."""
    bad = tmp_path / "report.html"
    text = report.read_text(encoding="utf-8")
    bad.write_text(text.replace("</main>", "<script>document.title = 'taken over'</script></main>"), encoding="utf-8")
    page = chromium.page()
    page.open(bad)
    assert page.run("document.title") != "taken over"
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"strategy": "permute"}, lambda row: row["strategy"] == "permute"),
        ({"strategy": "maskout", "kind": "odd"}, lambda row: (row["strategy"], row["kind"]) == ("maskout", "odd")),
        ({"tiles": "3"}, lambda row: row["tiles"] == "3"),
        ({"least": "200", "most": "400"}, lambda row: 200 <= int(row["tokens"]) <= 400),
        ({"text": "NEEDLE"}, lambda row: "needle" in row["text"]),
        ({"strategy": "format", "text": "needle", "most": "500"},
         lambda row: row["strategy"] == "format" and "needle" in row["text"] and int(row["tokens"]) <= 500),
        ({"text": "not to be found"}, lambda _: False),
    ],
    ids=["strategy", "kind", "tiles", "tokens", "text", "three", "none"],
)  # fmt: skip
def test_filters_show_what_they_say_and_count_it(page: Page, fields: dict[str, str], wanted: Any) -> None:
    everything = rows(page)
    right = [row["id"] for row in everything if wanted(row)]
    assert len(right) < len(everything)
    assert right or "text" in fields
    for field, value in fields.items():
        fill(page, field, value)
    assert shown(page) == right
    status = "document.querySelector('[role=status]').textContent"
    assert page.run(status) == f"{len(right)} of {len(everything)} samples"
    marked = page.run("CSS.highlights.get('found').size")
    assert (marked > 0) == (bool(right) and "text" in fields)
    page.mouse("click", "document.querySelector('[data-clear]')")
    assert shown(page) == [row["id"] for row in everything]
    assert page.run("CSS.highlights.get('found').size") == 0


def tile(sample: str, side: str, number: str) -> str:
    return f"document.getElementById({json.dumps(f'{sample}.{side}{number}')})"


@pytest.fixture
def linked(page: Page) -> tuple[str, str]:
    """A sample whose answers stand in another order, opened, and one of its tiles."""
    found = page.run(
        f"""(() => {{ for (const sample of {SAMPLES}) {{
            const of = side => [...sample.querySelectorAll('.laid [data-tile]')].filter(tile => tile.id.includes(side));
            const asked = of('.q').map(tile => tile.dataset.tile), answers = of('.a').map(tile => tile.dataset.tile);
            if (asked.length > 2 && answers.length > 2 && answers[0] !== asked[0]) return [sample.id, answers[0]];
        }} }})()"""
    )
    page.run(f"location.hash = {json.dumps(found[0])}")
    page.until(f"document.getElementById('{found[0]}').open")
    return found[0], found[1]


def lit(page: Page, kind: str) -> list[str]:
    return sorted(page.run(f"[...document.querySelectorAll('.laid .{kind}')].map(tile => tile.id)"))


def test_pointing_at_a_tile_lights_up_both_its_places(page: Page, linked: tuple[str, str]) -> None:
    sample, number = linked
    both = sorted([f"{sample}.q{number}", f"{sample}.a{number}"])
    for side in "qa":
        page.mouse("move", tile(sample, side, number))
        page.until(f"{tile(sample, side, number)}.classList.contains('lit')")
        assert lit(page, "lit") == both
    ground = f"getComputedStyle({tile(sample, 'q', number)}).outlineStyle"
    assert page.run(ground) == "solid"
    page.mouse("move", "document.querySelector('h1')")
    page.until("!document.querySelector('.lit')")


def test_a_click_holds_both_places_until_escape(page: Page, linked: tuple[str, str]) -> None:
    sample, number = linked
    page.mouse("click", tile(sample, "q", number))
    page.until("document.querySelectorAll('.laid .held').length === 2")
    page.mouse("move", "document.querySelector('h1')")
    assert lit(page, "held") == sorted([f"{sample}.q{number}", f"{sample}.a{number}"])
    page.run(f"{tile(sample, 'q', number)}.querySelector('a').focus()")
    page.key("Escape", 27)
    page.until("!document.querySelector('.held')")


def test_the_number_of_a_tile_leads_to_its_other_place_by_keyboard(page: Page, linked: tuple[str, str]) -> None:
    sample, number = linked
    page.run(f"{tile(sample, 'q', number)}.querySelector('a').focus()")
    assert lit(page, "lit") == sorted([f"{sample}.q{number}", f"{sample}.a{number}"])
    page.key("Enter", 13, "\r")
    page.until(f"location.hash === '#{sample}.a{number}'")
    page.until(f"{tile(sample, 'a', number)}.classList.contains('held')")
    box = page.run(f"(box => [box.top, box.bottom, innerHeight])({tile(sample, 'a', number)}.getBoundingClientRect())")
    assert box[0] < box[2]
    assert box[1] > 0


def test_a_link_opens_its_sample_even_where_it_is_filtered_out(page: Page, report: Path) -> None:
    last = rows(page)[-1]["id"]
    page.open(report, f"#{last}")
    page.until(f"document.getElementById('{last}').open")
    assert 0 <= page.run(f"document.getElementById('{last}').getBoundingClientRect().top") < 900
    assert page.run("document.querySelector('[role=status]').textContent").endswith(f", at number {len(rows(page))}")
    fill(page, "text", "not to be found")
    assert shown(page) == []
    page.run(f"location.hash = '{rows(page)[0]['id']}'")
    page.until(f"{SHOWN}.length === {len(rows(page))}")


def test_next_and_previous_step_through_what_is_shown(page: Page) -> None:
    fill(page, "strategy", "permute")
    some = shown(page)
    following, before = (f"document.querySelector('[data-step=\"{by}\"]')" for by in (1, -1))
    for button, place in ((following, 0), (following, 1), (before, 0), (before, -1), (following, 0)):
        page.mouse("click", button)
        page.until(f"location.hash === '#{some[place]}'")
        opened = page.run(f"{SAMPLES}.filter(sample => sample.open).map(sample => sample.id)")
        assert opened == [some[place]]
        said = page.run("document.querySelector('[role=status]').textContent")
        assert said.endswith(f", at number {some.index(some[place]) + 1}")
    page.key("Enter", 13, "\r")  # the button keeps the focus
    page.until(f"location.hash === '#{some[1]}'")
    page.run("history.back()")
    page.until("document.querySelector('[role=status]').textContent.endsWith(', at number 1')")


def test_a_search_marks_nothing_in_the_page_itself(page: Page) -> None:
    before = page.run("document.querySelector('main').innerHTML.length")
    fill(page, "text", "needle")
    fill(page, "text", "")
    page.mouse("click", "document.querySelector('h1')")
    assert abs(page.run("document.querySelector('main').innerHTML.length") - before) < 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280, 1920])
def test_nothing_reaches_beyond_the_window(page: Page, width: int, scheme: str) -> None:
    page.look(width=width, scheme=scheme)
    page.run(f"{SAMPLES}.forEach(sample => sample.open = true)")
    assert page.run("document.documentElement.scrollWidth") <= width
    beyond = (
        "[...document.querySelectorAll('body *')].filter(it => !it.closest('.scroll, svg, .gap') && "
        f"it.getBoundingClientRect().right > {width} + 1).map(it => it.outerHTML.slice(0, 100))"
    )
    assert page.run(beyond) == []
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[scheme]
    assert page.picture()[:4] == b"\x89PNG"


def test_without_scripts_everything_is_there_to_be_read(page: Page, report: Path) -> None:
    everything = shown(page)
    page.open(report, scripts=False)
    page.ask("Emulation.setScriptExecutionDisabled", value=False)  # to look; the page's own script has not run
    assert shown(page) == everything
    assert page.run("document.querySelector('.tools').checkVisibility()") is False
    assert page.run("document.querySelector('.steps').checkVisibility()") is False
    assert page.run(f"{SAMPLES}[0].open") is True
    page.mouse("click", f"{SAMPLES}[1].querySelector('summary')")
    page.until(f"{SAMPLES}[1].open")


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(page: Page) -> None:
    nameless = "[...document.querySelectorAll('select, input')].filter(it => !it.labels.length).length"
    assert page.run(nameless) == 0
    page.run("document.querySelector('[data-filter=strategy]').focus()")
    reached = []
    for _ in range(9):
        reached.append(page.run("document.activeElement.dataset.filter || document.activeElement.textContent"))
        page.key("Tab", 9)
    assert reached[:8] == ["strategy", "kind", "tiles", "least", "most", "text", "Previous", "Next"]
    assert "tokens" in reached[8]
    ring = page.run("(style => [style.outlineStyle, style.outlineWidth])(getComputedStyle(document.activeElement))")
    assert ring == ["solid", "2px"]


def test_those_who_want_no_motion_get_none(page: Page) -> None:
    still = "getComputedStyle(document.querySelector('.laid .tile')).transitionDuration"
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert page.run(still) == "0s"
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "no-preference"}])
    assert page.run(still) == "0.12s"


def test_tools_are_not_printed(page: Page) -> None:
    page.ask("Emulation.setEmulatedMedia", media="print")
    hidden = "['.tools', '.steps', 'nav'].filter(name => document.querySelector(name).checkVisibility())"
    assert page.run(hidden) == []
    assert page.run("document.querySelector('.laid').checkVisibility()") is True


def test_a_machine_without_chromium_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssertionError, match="apt-get install chromium"):
        Chromium(tmp_path)

"""Use without a mouse, with a screen reader, in the dark, on a phone."""

from __future__ import annotations

import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from support.page import BEGINNING

PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}
AXE = Axe()


def violations(writer):
    """Return what axe finds in the page as it is."""
    found = AXE.run(writer.page).response["violations"]
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]


@pytest.mark.parametrize(
    "options",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE],
    ids=["light", "dark", "phone"],
)
def test_axe_finds_nothing(start, options):
    writer = start({"length": 200}, **{"viewport": {"width": 1100, "height": 800}, **options})
    assert violations(writer) == []
    writer.type("And the king said unto them, Go ye up. " * 15)
    expect(writer.page.locator("#mirror .unseen")).to_have_count(1)
    writer.press("Tab")
    expect(writer.list.locator(".text").first).not_to_be_empty()
    assert violations(writer) == []
    writer.press("Enter")
    expect(writer.page.locator("#mirror .by-model").first).to_be_visible()
    assert violations(writer) == []
    writer.click("Probabilities")
    tokens = writer.page.get_by_role("listbox", name="Tokens, by likelihood")
    expect(tokens).to_have_attribute("aria-busy", "false")
    tokens.focus()
    writer.press("ArrowRight")
    assert violations(writer) == []
    writer.press("Escape")
    for name in ["Documents", "Share", "Settings", "Help"]:
        writer.click(name)
        expect(writer.page.get_by_role("dialog", name=name)).to_be_visible()
        assert violations(writer) == []
        writer.press("Escape")
    writer.click("Documents")
    writer.page.locator("#documents .remove").first.click()
    expect(writer.notice).to_be_visible()
    assert violations(writer) == []


def test_a_screen_reader_follows_the_continuations(writer):
    expect(writer.page.locator("#suggestions")).to_have_role("listbox")
    assert writer.text.get_attribute("aria-controls") == "suggestions"
    writer.type(BEGINNING)
    texts = writer.ask()
    expect(writer.live).to_contain_text("Three continuations are ready.")
    for place in [0, 1, 2, 0]:
        option = writer.options.nth(place)
        assert writer.text.get_attribute("aria-activedescendant") == option.get_attribute("id")
        selected = writer.options.evaluate_all("all => all.map(e => e.ariaSelected)")
        assert selected == [str(index == place).lower() for index in range(3)]
        writer.press("ArrowDown")
    # What is read of an entry is its text, without its number.
    expected = [" ".join(text.split()) for text in texts]
    for option, text in zip(writer.options.all(), expected, strict=True):
        expect(option).to_have_accessible_name(text)
    expect(writer.text).to_be_focused()


def test_a_continuation_without_a_word_has_a_name(writer):
    writer.page.route(
        "**/v1/completions",
        lambda route: route.fulfill(
            headers={"Content-Type": "text/event-stream"},
            body='data: {"choices": [{"index": 0, "text": "\\n", "finish_reason": "stop"}]}\n\n'
            "data: [DONE]\n\n",
        ),
    )
    writer.type(BEGINNING)
    writer.ask()
    expect(writer.options.nth(0)).to_have_accessible_name("Continuation 1")
    expect(writer.options.nth(1)).to_have_accessible_name("The text ends here.")
    assert violations(writer) == []


def test_every_control_is_reached_by_keys(writer):
    writer.press("Shift+Tab")
    reached = []
    for _ in range(12):
        writer.press("Shift+Tab")
        reached.append(writer.page.evaluate("document.activeElement.id"))
    assert {"show-library", "title", "probabilities", "show-share", "show-settings"} <= {*reached}
    # A dialog is opened, used and closed, and the focus goes back.
    writer.button("Settings").focus()
    writer.press("Enter")
    expect(writer.page.get_by_role("dialog", name="Settings")).to_be_visible()
    writer.page.locator("#temperature").focus()
    before = writer.page.locator("#temperature").input_value()
    writer.press("ArrowRight", "Escape")
    assert writer.page.locator("#temperature").input_value() != before
    expect(writer.button("Settings")).to_be_focused()
    # A whole continuation is asked for and chosen by buttons and keys.
    writer.button("Continue").focus()
    writer.press("Enter")
    texts = writer.ready()
    writer.press("Enter")
    writer.has_text(texts[0])


def test_dark_is_dark_and_still_is_still(start):
    def background(writer):
        colour = writer.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(json.loads(colour.replace("rgb(", "[").replace(")", "]")))

    light = start(color_scheme="light", reduced_motion="no-preference")
    dark = start(color_scheme="dark", reduced_motion="reduce")
    assert background(dark) < 150 < 600 < background(light)
    for writer, animation in [(light, "rise"), (dark, "none")]:
        found = writer.page.locator("#popup").evaluate("e => getComputedStyle(e).animationName")
        assert found == animation

"""Continuations: asked for, chosen, dropped and undone."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from support.page import BEGINNING

PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}


def test_tab_asks_for_three_continuations_of_the_text_before_the_caret(writer, server):
    writer.type(BEGINNING)
    texts = writer.ask()
    body = writer.requests[-1]
    assert (body["prompt"], body["n"], body["max_tokens"]) == (BEGINNING, 3, 8)
    assert texts == server.completions(body)
    assert len(set(texts)) == 3
    expect(writer.options).to_have_count(3)
    writer.has_text(BEGINNING)


def test_continuations_appear_as_they_are_written(start):
    writer = start({"length": 60})
    # The first state of the list that has text is not yet whole.
    writer.page.evaluate(
        """() => {
            const list = document.getElementById("suggestions");
            window.seen = [];
            new MutationObserver(() => window.seen.push(list.textContent.length))
                .observe(list, {childList: true, subtree: true, characterData: true});
        }"""
    )
    writer.type(BEGINNING)
    writer.ask()
    lengths = writer.page.evaluate("window.seen")
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 10


def test_keys_choose(writer):
    writer.type(BEGINNING)
    for keys, chosen in [
        ("Enter", 0),
        ("ArrowDown Enter", 1),
        ("ArrowUp Enter", 2),
        ("ArrowDown ArrowDown ArrowDown Enter", 0),
        ("1", 0),
        ("2", 1),
        ("3", 2),
    ]:
        texts = writer.ask()
        writer.press(*keys.split())
        writer.has_text(BEGINNING + texts[chosen])
        expect(writer.list).to_be_hidden()
        writer.press("Control+z")
        writer.has_text(BEGINNING)
    writer.page.keyboard.type("!")  # the text still has the focus
    writer.has_text(BEGINNING + "!")


def test_a_click_chooses(writer):
    writer.type(BEGINNING)
    texts = writer.ask()
    writer.options.nth(1).click()
    writer.has_text(BEGINNING + texts[1])
    expect(writer.text).to_be_focused()


def test_escape_drops_them_and_what_is_still_written(start):
    writer = start({"length": 200})
    ended = []
    writer.page.on("requestfailed", lambda request: ended.append(request.failure))
    writer.type(BEGINNING)
    writer.press("Tab")
    expect(writer.list.locator(".text").first).not_to_be_empty()
    with writer.page.expect_event("requestfailed"):
        writer.press("Escape")
    assert ended == ["net::ERR_ABORTED"]
    expect(writer.list).to_be_hidden()
    writer.has_text(BEGINNING)
    assert writer.text.get_attribute("aria-activedescendant") is None


def test_typing_and_moving_drop_them(writer):
    writer.type(BEGINNING)
    writer.ask()
    writer.page.keyboard.type(",")
    expect(writer.list).to_be_hidden()
    writer.has_text(BEGINNING + ",")
    writer.ask()
    writer.press("ArrowLeft")
    expect(writer.list).to_be_hidden()


def test_what_has_come_can_be_chosen_before_the_end(start):
    writer = start({"length": 200})
    writer.type(BEGINNING)
    writer.press("Tab")
    expect(writer.list.locator(".text").first).not_to_be_empty()
    writer.press("Enter")
    text = writer.text.input_value()
    assert text.startswith(BEGINNING)
    assert len(text) > len(BEGINNING)
    expect(writer.list).to_be_hidden()
    writer.has_text(text)


def test_tab_again_asks_for_others(writer):
    writer.type(BEGINNING)
    first = writer.ask()
    writer.press("Tab")
    expect(writer.list).to_have_attribute("aria-busy", "true")
    second = writer.ready()
    assert not set(first) & set(second)
    assert writer.requests[1]["seed"] == writer.requests[0]["seed"] + 1
    # After they were dropped it goes on; at another place it begins again.
    writer.press("Escape")
    writer.ask()
    writer.press("Escape")
    writer.type(".")
    writer.ask()
    assert [body["seed"] - writer.requests[0]["seed"] for body in writer.requests] == [0, 1, 2, 0]


def test_a_button_asks_and_others_come(writer):
    writer.type(BEGINNING)
    writer.click("Continue")
    writer.ready()
    expect(writer.text).to_be_focused()
    writer.page.get_by_role("button", name="Others").click()
    writer.ready()
    assert len(writer.requests) == 2
    writer.page.get_by_role("button", name="Drop").click()
    expect(writer.list).to_be_hidden()


def test_text_behind_the_caret_is_kept(writer):
    writer.type("In the beginning the end")
    for _ in " the end":
        writer.press("ArrowLeft")
    texts = writer.ask()
    assert writer.requests[-1]["prompt"] == "In the beginning"
    writer.press("2")
    writer.has_text(f"In the beginning{texts[1]} the end")
    assert writer.parts() == [
        ("person", "In the beginning"),
        ("model", texts[1]),
        ("person", " the end"),
    ]


def test_a_space_before_the_caret_is_not_doubled(writer, server):
    writer.type(BEGINNING + " ")
    texts = writer.ask()
    body = writer.requests[-1]
    assert body["prompt"] == BEGINNING
    assert texts == [text.removeprefix(" ") for text in server.completions(body)]


def test_an_empty_text_begins_as_the_texts_did_that_the_model_learnt_from(writer):
    texts = writer.ask()
    assert writer.requests[-1]["prompt"] == "<|endoftext|>"
    writer.press("1")
    writer.has_text(texts[0])


def test_the_model_and_the_person_are_told_apart(writer):
    writer.type(BEGINNING)
    texts = writer.ask()
    writer.press("1")
    writer.type(" and more")
    assert writer.parts() == [
        ("person", BEGINNING),
        ("model", texts[0]),
        ("person", " and more"),
    ]
    model, person = (
        writer.page.locator("#mirror span").nth(place).evaluate("e => getComputedStyle(e).color")
        for place in (1, 0)
    )
    assert model != person


def test_undo_takes_a_continuation_back_in_one_step_and_redo_brings_it(writer):
    writer.type(BEGINNING)
    texts = writer.ask()
    writer.press("1")
    chosen = writer.parts()
    writer.press("Control+z")
    writer.has_text(BEGINNING)
    assert writer.parts() == [("person", BEGINNING)]
    writer.press("Control+Shift+z")
    writer.has_text(BEGINNING + texts[0])
    assert writer.parts() == chosen
    # A part of the model's text that was deleted comes back as the model's.
    writer.press("Control+Backspace")
    writer.press("Control+z")
    assert writer.parts() == chosen
    writer.click("Undo")
    writer.has_text(BEGINNING)
    writer.click("Redo")
    assert writer.parts() == chosen


def test_a_time_limit_keeps_what_has_come(start):
    writer = start({"length": 200, "time": 1})
    writer.page.clock.install()
    # The stream stays open: what was sent before is a piece of one continuation.
    writer.page.evaluate(
        """() => {
            const real = window.fetch;
            window.fetch = (url, options) => {
                if (!String(url).endsWith("/v1/completions")) return real(url, options);
                const choice = {index: 0, text: " a piece", finish_reason: null};
                const bytes = new TextEncoder().encode(
                    `data: ${JSON.stringify({choices: [choice]})}\\r\\n\\r\\n`);
                return Promise.resolve(new Response(new ReadableStream({
                    start(stream) {
                        stream.enqueue(bytes);
                        options.signal.addEventListener("abort", () => {
                            stream.error(options.signal.reason);
                        });
                    },
                })));
            };
        }"""
    )
    writer.type(BEGINNING)
    writer.press("Tab")
    expect(writer.list.locator(".text").first).to_have_text(" a piece")
    expect(writer.list).to_have_attribute("aria-busy", "true")
    writer.page.clock.run_for(1100)
    assert writer.ready() == [
        " a piece",
        "Nothing came in this time.",
        "Nothing came in this time.",
    ]
    writer.press("2")  # it has nothing to write
    writer.has_text(BEGINNING)
    writer.press("1")
    writer.has_text(BEGINNING + " a piece")


def test_escape_and_then_tab_leaves_the_text(writer):
    writer.type(BEGINNING)
    writer.press("Escape", "Tab")
    expect(writer.text).not_to_be_focused()
    expect(writer.button("Continue")).to_be_focused()
    writer.press("Shift+Tab")
    expect(writer.text).to_be_focused()
    writer.press("Escape", "x", "Tab")
    expect(writer.list).to_be_visible()
    assert "Escape and then Tab leaves" in writer.page.locator("#how").text_content()


def test_a_finger_asks_and_chooses_on_a_phone(start):
    writer = start({"length": 8}, **PHONE)
    writer.type(BEGINNING)
    writer.text.blur()
    writer.button("Continue").tap()
    texts = writer.ready()
    expect(writer.text).not_to_be_focused()  # no keyboard over the list
    box = writer.page.locator("#popup").bounding_box()
    assert (box["x"], box["width"]) == (0, 390)
    assert box["y"] + box["height"] == pytest.approx(780, abs=1)
    writer.options.nth(2).tap()
    writer.has_text(BEGINNING + texts[2])
    width = writer.page.evaluate("document.documentElement.scrollWidth")
    assert width == 390, "nothing is wider than the screen"


def test_the_list_is_near_the_caret_on_a_wide_screen(writer):
    writer.type(BEGINNING + "\n" * 6 + "And now")
    writer.ask()
    end = writer.page.locator("#mirror span").last.bounding_box()
    box = writer.page.locator("#popup").bounding_box()
    assert 0 <= box["y"] - (end["y"] + end["height"]) < 20
    assert abs(box["x"] - end["x"]) < 40


def test_an_error_is_told_and_nothing_stays_open(writer):
    writer.page.route(
        "**/v1/completions",
        lambda route: route.fulfill(
            status=429,
            headers={"Retry-After": "2"},
            json={"error": {"message": "The queue is full."}},
        ),
    )
    writer.type(BEGINNING)
    writer.press("Tab")
    expect(writer.notice).to_contain_text("The queue is full. Try again in 2 s.")
    expect(writer.list).to_be_hidden()
    writer.page.unroute("**/v1/completions")
    assert len(set(writer.ask())) == 3

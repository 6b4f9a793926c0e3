"""What the page tells of a text: counts, what the model sees, probabilities."""

from __future__ import annotations

import math

from playwright.sync_api import expect

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from support.page import BEGINNING

TOKENIZER = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
LONG = "".join(
    f"And it came to pass on day {day}, that the king \U0001f600 rose.\n" for day in range(30)
)


def offsets(text):
    """Return where each token of a text starts."""
    found = TOKENIZER(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [start for start, _ in found]


def test_words_and_tokens_are_counted(writer):
    expect(writer.counts).to_have_text("0 words · 0 tokens · the model sees all")
    writer.type("It's one, two\u2014three. 私は")
    count = len(offsets("It's one, two\u2014three. 私は"))
    # Words are those of the browser's dictionary: 私 and は are two.
    expect(writer.counts).to_contain_text(f"6 words · {count} tokens")
    writer.press("Control+a")
    writer.press("Backspace")
    expect(writer.counts).to_contain_text("0 words · 0 tokens")


def test_what_the_model_no_longer_sees_is_dimmed(writer):
    writer.type(LONG)
    starts = offsets(LONG)
    room = 256 - 8
    assert len(starts) > room
    expect(writer.counts).to_contain_text(f"the model sees the last {room}")
    expect(writer.page.locator("#mirror .unseen")).to_have_text(LONG[: starts[-room]])
    writer.ask()
    assert writer.requests[-1]["truncate_prompt_tokens"] == room
    writer.press("Escape")
    # Earlier in the text it sees all, and longer continuations leave less room.
    writer.press("Control+Home")
    expect(writer.page.locator("#mirror .unseen")).to_have_count(0)
    expect(writer.counts).to_contain_text("the model sees all")
    writer.press("Control+End")
    writer.click("Settings")
    writer.page.locator("#length").fill("100")
    expect(writer.page.locator("#mirror .unseen")).to_have_text(LONG[: starts[-156]])


def test_the_caret_stays_in_sight(writer):
    def is_seen():
        end = writer.page.locator("#mirror span").last.evaluate("e => e.getBoundingClientRect()")
        foot = writer.page.get_by_role("contentinfo").bounding_box()
        return 60 <= end["y"] <= foot["y"] - end["height"]

    writer.type(LONG)
    assert is_seen()
    writer.page.evaluate("scrollTo(0, 0)")
    assert not is_seen()
    writer.type("x")
    assert is_seen()


def test_the_mirror_has_the_metrics_of_the_text(writer):
    writer.type("Many words that go over the end of the line, " * 5 + "\n\nx\n")
    text, mirror = (writer.page.locator(f"#{name}").bounding_box() for name in ("text", "mirror"))
    assert text == mirror
    sizes = writer.text.evaluate(
        "e => [e.scrollHeight, e.clientHeight, e.scrollWidth, e.clientWidth]"
    )
    assert sizes[0] == sizes[1]
    assert sizes[2] == sizes[3]
    assert writer.page.locator("#mirror").text_content() == writer.text.input_value() + "\u200b"


def open_probabilities(writer):
    """Open the view, and wait until it is whole."""
    writer.click("Probabilities")
    tokens = writer.page.get_by_role("listbox", name="Tokens, by likelihood")
    expect(tokens).to_have_attribute("aria-busy", "false")
    return tokens


def test_probabilities_shade_tokens_and_tell_alternatives(writer, server):
    writer.type(BEGINNING)
    tokens = open_probabilities(writer)
    expect(writer.text).to_be_hidden()
    options = tokens.get_by_role("option")
    starts = offsets(BEGINNING)
    assert options.all_text_contents() == [
        BEGINNING[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)
    ]
    with writer.page.expect_response("**/v1/completions") as answer:
        writer.click("Probabilities")
        open_probabilities(writer)
    told = answer.value.json()["choices"][0]["logprobs"]
    shades = options.evaluate_all("all => all.map(e => e.dataset.shade)")
    least = [0.5, 0.2, 0.05, 0.01, 0.001, 0]
    assert shades[0] is None
    for shade, value in zip(shades[1:], told["token_logprobs"][1:], strict=True):
        likelihood = math.exp(value)
        assert likelihood >= least[int(shade)]
        assert int(shade) == 0 or likelihood < least[int(shade) - 1]
    colours = options.evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
    of_shades = dict(zip(shades, colours, strict=True))
    assert len(set(of_shades.values())) >= len(of_shades) - 1  # none and 0 look alike

    # With the mouse, and with keys: what is likelier there, the likeliest first.
    panel = writer.page.locator("#token")
    words = [n for n, text in enumerate(options.all_text_contents()) if n > 0 and text.strip()]
    best = {n: max(told["top_logprobs"][n].values()) for n in words}
    place = max(best, key=best.__getitem__)
    assert best[place] >= math.log(0.1)  # such are told without decimals
    options.nth(place).hover()
    expect(panel.locator(".row")).to_have_count(6)
    percent = f"{100 * math.exp(best[place]):.0f}%"
    expect(panel.locator(".row").nth(1)).to_contain_text(percent)
    writer.page.mouse.move(0, 0)
    tokens.focus()
    writer.press("End", "ArrowLeft")
    active = tokens.get_attribute("aria-activedescendant")
    assert active == options.nth(len(starts) - 2).get_attribute("id")
    assert "Likeliest: " in writer.page.locator(f"#{active}").get_attribute("aria-label")
    # Back to writing at this token.
    writer.press("Enter")
    expect(writer.text).to_be_focused()
    writer.type("|")
    writer.has_text(BEGINNING[: starts[-2]] + "|" + BEGINNING[starts[-2] :])


def test_probabilities_of_a_text_longer_than_the_model_reads(writer):
    writer.type(LONG)
    tokens = open_probabilities(writer)
    shades = tokens.get_by_role("option").evaluate_all("all => all.map(e => e.dataset.shade)")
    assert len(shades) == len(offsets(LONG))
    assert shades[0] is None
    assert None not in shades[1:]
    assert tokens.text_content() == LONG
    assert max(len(body["prompt"]) for body in writer.requests) == 256
    writer.press("Escape")
    expect(writer.text).to_be_visible()

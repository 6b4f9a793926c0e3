"""Settings and the API key: remembered, and sent."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from support.page import BEGINNING, Served, Writer

GIVEN = {"temperature": 1.5, "topP": 0.5, "topK": 7, "length": 5, "time": 60, "seed": 321}


def test_settings_are_sent_and_remembered(writer, server):
    writer.click("Settings")
    expect(writer.page.get_by_role("dialog", name="Settings")).to_be_visible()
    dialog = writer.page.locator("#settings")
    for name, value in GIVEN.items():
        dialog.locator(f"[name={name}]").fill(str(value))
    expect(dialog.locator("output").first).to_have_text("1.5")
    writer.press("Escape")

    def sent():
        writer.ask()
        body = writer.requests[-1]
        keys = ["model", "temperature", "top_p", "top_k", "max_tokens", "seed"]
        return [body[key] for key in keys]

    writer.type(BEGINNING)
    expected = ["bard", 1.5, 0.5, 7, 5, 321]
    assert sent() == expected
    assert writer.requests[-1]["truncate_prompt_tokens"] == 256 - 5
    writer.save()
    writer.open(server.url)
    for name, value in GIVEN.items():
        assert float(dialog.locator(f"[name={name}]").input_value()) == value
    assert sent() == expected
    writer.press("Escape")
    writer.click("Settings")
    writer.click("Reset")
    assert dialog.locator("[name=seed]").input_value() == "1"


def test_what_cannot_be_is_not_sent(writer):
    writer.click("Settings")
    for name, value in {"topK": "-3", "seed": "", "time": "0"}.items():
        writer.page.locator(f"[name={name}]").fill(value)
        writer.press("Tab")
    found = {n: writer.page.locator(f"[name={n}]").input_value() for n in ("topK", "seed", "time")}
    assert found == {"topK": "0", "seed": "1", "time": "1"}


@pytest.fixture(scope="module")
def other():
    """A server of two models that asks for a key."""
    from gpt2x import EMBEDDED_MODEL

    served = Served(
        "--model",
        f"one={EMBEDDED_MODEL}",
        "--model",
        f"two={EMBEDDED_MODEL}",
        "--api-key",
        "secret",
    )
    yield served
    served.stop()


@pytest.mark.parametrize("keeps", [False, True])
def test_a_server_that_asks_for_a_key_gets_it(start, server, other, keeps):
    writer = start({"length": 4}, url=other.url)
    dialog = writer.page.get_by_role("dialog", name="API key")
    expect(dialog).to_be_visible()
    dialog.get_by_label("This server asks for a key.").fill("wrong")
    dialog.get_by_role("button", name="Use").click()
    expect(dialog).to_be_visible()  # it asks again
    dialog.get_by_label("This server asks for a key.").fill("secret")
    dialog.get_by_label("Keep it in this browser").set_checked(keeps)
    dialog.get_by_role("button", name="Use").click()
    model = writer.page.locator("#model")
    expect(model.locator("option")).to_have_text(["one", "two"])
    writer.click("Settings")
    model.select_option("two")
    writer.press("Escape")
    writer.type(BEGINNING)
    writer.ask()
    assert writer.requests[-1]["model"] == "two"
    # A text that was shared with another model's settings says so.
    writer.press("Escape")
    link = writer.link().replace(other.url, server.url)
    reader = start(url=link)
    expect(reader.notice).to_contain_text("Its model two is not served here")
    expect(reader.page.locator("#model")).to_have_value("bard")
    # A new window of the same person has the key if it was to be kept.
    again = Writer(writer.page.context.new_page(), other.url)
    if keeps:
        expect(again.page.locator("#model")).to_have_value("two")
    expect(again.page.get_by_role("dialog", name="API key")).to_be_visible(visible=not keeps)

"""The server goes away and comes back."""

from __future__ import annotations

from playwright.sync_api import expect

from support.page import BEGINNING, Served, Writer


def test_the_page_works_without_the_server_and_with_it_again(contexts):
    served = Served()
    context = contexts(service_workers="allow")
    writer = Writer(context.new_page(), served.url)
    writer.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    writer.type(BEGINNING)
    writer.save()
    served.stop()

    # What needs the server says so; all else works.
    away = writer.page.locator("#server")
    writer.press("Tab")
    expect(away).to_contain_text("The server is away.")
    expect(writer.list).to_be_hidden()
    writer.type(" and more")
    writer.has_text(BEGINNING + " and more")
    expect(writer.counts).to_contain_text("13 words")
    writer.title.fill("Kept")
    writer.save()

    # It opens from what the browser keeps, and documents can be made.
    writer.open(served.url)
    writer.has_text(BEGINNING + " and more")
    expect(away).to_be_visible()
    writer.click("Documents")
    writer.click("New document")
    writer.type("Made offline")
    writer.save()
    assert {doc["text"] for doc in writer.documents()} == {BEGINNING + " and more", "Made offline"}

    again = Served(port=served.port)
    try:
        expect(away).to_be_hidden(timeout=30_000)
        expect(writer.live).to_have_text("The server is back.")
        assert len(set(writer.ask())) == 3
        assert writer.errors == []
    finally:
        again.stop()


def test_a_stream_that_breaks_off_is_told(writer):
    writer.page.route(
        "**/v1/completions",
        lambda route: route.fulfill(
            headers={"Content-Type": "text/event-stream"},
            body='data: {"choices": [{"index": 0, "text": " a", "finish_reason": null}]}\n\n',
        ),
    )
    writer.type(BEGINNING)
    writer.press("Tab")
    expect(writer.live).to_have_text("The server is back.")  # it was away, and answers
    expect(writer.list).to_be_hidden()
    writer.page.unroute("**/v1/completions")
    assert len(set(writer.ask())) == 3

"""Documents: several, in two windows, deleted, exported and shared."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from support.page import BEGINNING, Writer


def another_window(writer, server):
    """Return the same person in another window."""
    return Writer(writer.page.context.new_page(), server.url)


def test_what_is_written_is_there_again_with_who_wrote_it(writer, server):
    writer.type(BEGINNING)
    texts = writer.ask()
    writer.press("1")
    writer.title.fill("Nightpiece")
    # It is saved without being asked to.
    writer.page.evaluate(
        """async () => {
            const isSaved = () => Object.values(localStorage).some((v) => v.includes("Nightpiece"));
            for (let tries = 0; tries < 500 && !isSaved(); tries++)
                await new Promise((done) => setTimeout(done, 20));
        }"""
    )
    assert [doc["title"] for doc in writer.documents()] == ["Nightpiece"]
    writer.open(server.url)
    writer.has_text(BEGINNING + texts[0])
    expect(writer.title).to_have_value("Nightpiece")
    assert writer.parts() == [("person", BEGINNING), ("model", texts[0])]


def test_there_are_several_documents_and_each_keeps_its_undo_apart(writer):
    writer.type("First words")
    writer.click("Documents")
    writer.click("New document")
    writer.has_text("")
    expect(writer.text).to_be_focused()
    writer.press("Control+z")
    writer.has_text("")
    writer.type("Second words")
    assert [doc["text"] for doc in writer.documents()] == ["First words"]
    writer.click("Documents")
    entries = writer.page.locator("#documents .open span")
    expect(entries).to_have_text(["Second words", "First words"])
    entries.nth(1).click()
    writer.has_text("First words")
    writer.press("Control+z")
    writer.has_text("First words")
    expect(writer.title).to_have_attribute("placeholder", "First words")
    expect(writer.page).to_have_title("First words · Write with GPT-2")


def test_a_deleted_document_comes_back_if_that_is_undone(writer):
    writer.type("To keep")
    writer.click("Documents")
    writer.click("New document")
    writer.type("To lose")
    writer.click("Documents")
    writer.click("Delete To lose")
    writer.has_text("To keep")
    assert [doc["text"] for doc in writer.documents()] == ["To keep"]
    writer.notice.get_by_role("button", name="Undo").click()
    writer.has_text("To lose")
    assert {doc["text"] for doc in writer.documents()} == {"To keep", "To lose"}


def test_windows_follow_one_another(writer, server):
    writer.type("One ")
    writer.save()
    other = another_window(writer, server)
    other.has_text("One ")
    other.type("two")
    other.save()
    writer.has_text("One two")
    writer.press("End")
    writer.type(" three")
    writer.save()
    other.has_text("One two three")
    assert [doc["text"] for doc in writer.documents()] == ["One two three"]


def test_windows_do_not_overwrite_one_another(writer, server):
    writer.type("Both")
    writer.save()
    other = another_window(writer, server)
    # Neither is saved before both have changed.
    for each in (writer, other):
        each.page.clock.install()
    other.type(" there")
    writer.type(" here")
    other.save()
    # As soon as its window hears of that, the other text is saved too.
    expect(writer.notice).to_contain_text("Another window changed this document too")
    assert {doc["text"] for doc in writer.documents()} == {"Both there", "Both here"}
    writer.has_text("Both here")
    other.has_text("Both there")
    # From now on they are two documents.
    writer.type("!")
    writer.save()
    assert {doc["text"] for doc in writer.documents()} == {"Both there", "Both here!"}
    expect(writer.title).to_have_value("Both here (second)")


def test_a_document_that_another_window_deletes_comes_back_if_it_is_written_on(writer, server):
    writer.type("Here")
    writer.save()
    other = another_window(writer, server)
    other.click("Documents")
    other.click("Delete Here")
    expect(writer.notice).to_contain_text("Another window deleted this document")
    assert writer.documents() == []
    writer.type(" again")
    writer.save()
    assert [doc["text"] for doc in writer.documents()] == ["Here again"]


def test_a_full_storage_is_told_and_the_text_stays(writer):
    writer.page.evaluate(
        """() => {
            Storage.prototype.setItem = () => { throw new DOMException("", "QuotaExceededError"); };
        }"""
    )
    writer.type("Too much")
    writer.save()
    expect(writer.notice).to_contain_text("storage is full")
    writer.has_text("Too much")


@pytest.mark.parametrize(
    ("button", "name", "content"),
    [
        ("Text (.txt)", "A-night.txt", "One *line*\nand another\n"),
        ("Markdown (.md)", "A-night.md", "# A night\n\nOne \\*line\\*\\\nand another\n"),
    ],
)
def test_documents_are_exported(writer, button, name, content):
    writer.title.fill("A night")
    writer.type("One *line*\nand another\n")
    writer.click("Share")
    with writer.page.expect_download() as download:
        writer.click(button)
    assert download.value.suggested_filename == name
    assert Path(download.value.path()).read_text("utf-8") == content


def test_a_link_shows_another_person_the_same_continuations(start):
    writer = start({"length": 8, "seed": 77, "temperature": 1.2, "topK": 50, "topP": 0.9})
    writer.title.fill("Shared")
    writer.type(BEGINNING)
    texts = writer.ask()
    writer.press("1")
    writer.type(" Ends.")
    for _ in " Ends.":
        writer.press("ArrowLeft")
    writer.ask()
    shown = writer.ask()  # the second ones
    link = writer.link()

    reader = start({"length": 30}, url=link)
    expect(reader.list).to_be_visible()
    assert reader.ready() == shown
    assert reader.requests == [writer.requests[-1]]
    reader.has_text(BEGINNING + texts[0] + " Ends.")
    assert reader.parts() == writer.parts()
    expect(reader.title).to_have_value("Shared")
    assert "#" not in reader.page.url  # a reload makes no second copy
    assert len(reader.documents()) == 1
    # The reader's own settings come back if wanted.
    reader.notice.get_by_role("button", name="Use my settings").click()
    expect(reader.list).to_be_hidden()
    reader.ask()
    assert reader.requests[-1]["max_tokens"] == 30


def test_a_link_without_continuations_asks_for_none(start, writer):
    writer.type(BEGINNING)
    reader = start(url=writer.link())
    reader.has_text(BEGINNING)
    assert reader.requests == []
    expect(reader.list).to_be_hidden()


def test_a_link_is_copied(start):
    writer = start(permissions=["clipboard-read", "clipboard-write"])
    writer.type(BEGINNING)
    writer.click("Share")
    expect(writer.page.locator("#link")).not_to_have_value("")
    link = writer.page.locator("#link").input_value()
    writer.click("Copy")
    expect(writer.notice).to_contain_text("The link is copied.")
    assert writer.page.evaluate("navigator.clipboard.readText()") == link


def test_a_damaged_link_is_told(writer, server):
    writer.type("Mine")
    writer.save()
    writer.open(server.url + "?again#d=abc")
    expect(writer.notice).to_contain_text("The link is damaged")
    writer.has_text("Mine")


def test_a_link_larger_than_the_storage_is_told_and_changes_nothing(start, writer):
    writer.type("x" * 2000)
    link = writer.link()
    reader = start({"length": 30})
    reader.type("Mine")
    reader.save()
    reader.page.evaluate(
        """() => {
            Storage.prototype.setItem = () => { throw new DOMException("", "QuotaExceededError"); };
        }"""
    )
    reader.page.evaluate("hash => { location.hash = hash; }", link[link.index("#") :])
    expect(reader.notice).to_contain_text("storage is too full for this text")
    reader.has_text("Mine")
    assert reader.page.locator("#length").input_value() == "30"

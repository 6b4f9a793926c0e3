"""What the page's modules compute, against slow references."""

from __future__ import annotations

import random

import pytest

LETTERS = "ab \n\U0001f600é"


@pytest.fixture(scope="module")
def run(browser, server):
    """Runs the body of a function in the page, where `module` imports one of its files."""
    page = browser.new_page(service_workers="block")
    page.goto(server.url)

    def run(code, given=None):
        return page.evaluate(
            "async (given) => { const module = (name) => import(`/page/${name}.js`);" + code + "}",
            given,
        )

    yield run
    page.close()


def units(text):
    """Return the UTF-16 code units of a text."""
    data = text.encode("utf-16-le")
    return [data[place : place + 2] for place in range(0, len(data), 2)]


def drawn_edits(random, count):
    """Return edits (the text after it, the caret, who made it), and the authors after each."""
    text, authors, edits, states = "", [], [], []
    for number in range(count):
        start = random.randint(0, len(text))
        end = min(len(text), start + random.choice([0, 0, 1, 5]))
        # Letters of an edit that replaces are new: what is kept of it could not be told otherwise.
        letters = LETTERS if start == end else chr(0x4E00 + number)
        new = "".join(random.choices(letters, k=random.choice([0, 1, 1, 4])))
        is_model = random.random() < 0.5
        at, until = len(units(text[:start])), len(units(text[:end]))
        text = text[:start] + new + text[end:]
        authors = authors[:at] + [is_model] * len(units(new)) + authors[until:]
        edits.append([text, at + len(units(new)), is_model])
        states.append(list(authors))
    return edits, states


def authors_of(ranges, length):
    """Return for each code unit whether the model wrote it."""
    found = [False] * length
    last = -1
    for start, end in ranges:
        assert last < start < end <= length, "in order, apart from one another, not empty"
        found[start:end] = [True] * (end - start)
        last = end
    return found


def test_ranges_follow_any_edits_and_undo(run):
    draw = random.Random(20)
    follow = """
        const { Authorship, areRanges } = await module("ranges");
        return given.map((edits) => {
            const authorship = new Authorship("", []);
            return edits.map(([text, caret, isModel, isUndo]) => {
                authorship.follow(text, caret, isModel, isUndo ?? false);
                if (!areRanges(authorship.ranges, text.length)) throw new Error("wrong ranges");
                return authorship.ranges;
            });
        });
    """
    runs = [drawn_edits(draw, 25) for _ in range(60)]
    for (edits, states), found in zip(runs, run(follow, [edits for edits, _ in runs]), strict=True):
        for (text, *_), authors, ranges in zip(edits, states, found, strict=True):
            assert authors_of(ranges, len(units(text))) == authors, edits

    # A history that goes back to any earlier text has its authors again.
    returns = []
    for edits, _ in runs:
        last = {text: place for place, (text, *_) in enumerate(edits)}
        back = [[text, len(units(text)), False, True] for text in last]
        returns.append((edits, last, edits + back))
    found = run(follow, [every for *_, every in returns])
    for (edits, last, _), ranges in zip(returns, found, strict=True):
        assert ranges[len(edits) :] == [ranges[place] for place in last.values()]


def test_a_surrogate_pair_is_never_cut(run):
    # The two emoji share their first code unit.
    found = run(
        """
        const { difference } = await module("ranges");
        return [difference("\\u{1f600}", "\\u{1f601}"), difference("\\u{1f600}", "\\u{1f601}", 0),
                difference("a\\u{1f600}b", "a\\u{1f5ff}b")];
        """
    )
    change = {"start": 0, "removed": 2, "inserted": 2}
    assert found == [change, change, {"start": 1, "removed": 2, "inserted": 2}]


def test_segments_cover_the_text(run):
    draw = random.Random(3)
    cases = []
    for _ in range(200):
        length = draw.randint(0, 12)
        cuts = sorted(draw.sample(range(length + 1), 2 * draw.randint(0, (length + 1) // 2)))
        ranges = [[a, b] for a, b in zip(cuts[::2], cuts[1::2], strict=True)]
        cases.append([length, ranges, draw.randint(0, length + 2)])
    found = run(
        """
        const { segments } = await module("ranges");
        return given.map((each) => segments(...each));
        """,
        cases,
    )
    for (length, ranges, seen), parts in zip(cases, found, strict=True):
        assert [part["start"] for part in parts] == [0, *(part["end"] for part in parts)][:-1]
        assert sum(part["end"] - part["start"] for part in parts) == length
        authors = [part["isModel"] for part in parts for _ in range(part["start"], part["end"])]
        marks = [False] * length
        for start, end in ranges:
            marks[start:end] = [True] * (end - start)
        assert authors == marks
        assert all(part["isSeen"] == (part["start"] >= seen) for part in parts)


def test_places_in_code_points_become_code_units(run):
    draw = random.Random(4)
    cases = []
    for _ in range(100):
        text = "".join(draw.choices(LETTERS, k=draw.randint(0, 20)))
        places = sorted(draw.choices(range(len(text) + 1), k=draw.randint(0, 10)))
        cases.append([text, places])
    found = run(
        """
        const { toUnits } = await module("offsets");
        return given.map((each) => toUnits(...each));
        """,
        cases,
    )
    for (text, places), got in zip(cases, found, strict=True):
        assert got == [len(units(text[:place])) for place in places]


def test_every_token_of_a_long_text_is_scored_once_behind_half_a_window(run):
    cases = [[count, size] for count in range(40) for size in (1, 2, 3, 8, 255)]
    found = run(
        """
        const { windows } = await module("probabilities");
        return given.map((each) => windows(...each));
        """,
        cases,
    )
    for (count, size), parts in zip(cases, found, strict=True):
        new = [token for part in parts for token in range(part["from"], part["end"])]
        assert new == list(range(count))
        for part in parts:
            assert part["end"] - part["start"] <= size
            assert part["from"] - part["start"] == min(part["from"], size // 2)


def test_events_come_whole_however_their_bytes_are_cut(run):
    text = 'data: {"text":"é"}\r\n\r\n: ping\r\n\r\ndata: second\n\nevent: x\ndata: third\n\n'
    found = run(
        """
        const { events } = await module("client");
        const bytes = new TextEncoder().encode(given);
        const all = [];
        for (const size of [1, 2, 3, 7, 1000]) {
            const stream = new ReadableStream({
                start(stream) {
                    for (let place = 0; place < bytes.length; place += size)
                        stream.enqueue(bytes.slice(place, place + size));
                    stream.close();
                },
            });
            const found = [];
            for await (const data of events(stream)) found.push(data);
            all.push(found);
        }
        return all;
        """,
        text,
    )
    assert found == [['{"text":"é"}', "second", "third"]] * 5


def test_a_prompt_is_the_end_of_a_long_text_and_leaves_out_one_space(run):
    found = run(
        """
        const { promptOf } = await module("suggestions");
        const long = "\\u{1f600}" + "x".repeat(127);
        return ["", " ", "a", "a ", "a  ", "a\\n ", long, long + " ", "b".repeat(200)].map(
            (text) => Object.values(promptOf(text, 2)));
        """
    )
    short = [["", False], [" ", False], ["a", False], ["a", True], ["a  ", False], ["a\n ", False]]
    assert found == [*short, ["x" * 127, False], ["x" * 127, True], ["b" * 128, False]]


def test_markdown_shows_the_text_as_it_is(run):
    found = run(
        """
        const { markdown, fileName } = await module("exports");
        return [markdown("A *title*", given), fileName("Shall I: compare/thee?", "md"),
                fileName("...", "txt")];
        """,
        "# One\nTwo *three* <b>\n\n    four_five_\n1. six\n- seven\n",
    )
    assert found == [
        "# A \\*title\\*\n\n\\# One\\\nTwo \\*three\\* \\<b\\>\n\n"
        "&nbsp;&nbsp;&nbsp;&nbsp;four\\_five\\_\\\n1\\. six\\\n\\- seven\n",
        "Shall-I-compare-thee.md",
        "untitled.txt",
    ]


def test_settings_from_elsewhere_are_put_in_their_limits(run):
    found = run(
        """
        const { valid } = await module("settings");
        return [valid(null), valid({temperature: 9, topP: "x", topK: 2.6, model: 3, seed: -1,
                                    length: Infinity, extra: 1})];
        """
    )
    first = {"model": "", "temperature": 0.8, "topP": 0.95, "topK": 0, "length": 24, "time": 10}
    assert found[0] == {**first, "seed": 1}
    assert found[1] == {**first, "temperature": 2, "topK": 3, "seed": 0}


def test_links_fold_any_document_and_refuse_what_is_damaged(run):
    found = run(
        """
        const { fold, unfold } = await module("link");
        const { valid } = await module("settings");
        const refused = async (hash) => unfold(hash).then(() => false, () => true);
        const shared = {title: "É", text: given, ranges: [[1, 3]], caret: 2, attempt: 4,
                        settings: valid({seed: 12})};
        const hash = await fold(shared);
        const json = new Blob([JSON.stringify({...shared, text: " ".repeat(9_000_000)})]);
        const stream = json.stream().pipeThrough(new CompressionStream("deflate-raw"));
        const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
        const letters = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
        const bomb = "#d=" + btoa(letters).replaceAll("+", "-").replaceAll("/", "_");
        return {
            isSame: JSON.stringify(await unfold(hash)) === JSON.stringify(shared),
            isFit: /^#d=[\\w-]+$/.test(hash),
            other: await unfold("#top"),
            refused: [
                await refused(hash.slice(0, -8)), await refused("#d=%%%"), await refused(bomb),
                await refused(await fold({...shared, ranges: [[3, 1]]})),
                await refused(await fold({...shared, ranges: [[0, 99]]})),
                await refused(await fold({...shared, text: 3})),
                await refused(await fold({...shared, attempt: -1})),
            ],
            isShort: bomb.length < 20_000,
            isTooLong: await fold({...shared, text: " ".repeat(9_000_000)}).then(
                () => false, () => true),
        };
        """,
        "a\U0001f600bé" * 3,
    )
    assert found == {
        "isSame": True,
        "isFit": True,
        "other": None,
        "refused": [True] * 7,
        "isShort": True,
        "isTooLong": True,
    }


def test_a_model_stays_chosen_until_the_server_tells_which_there_are(run):
    found = run(
        """
        const { Settings } = await module("settings");
        const form = document.getElementById("options").cloneNode(true);
        form.elements.namedItem("model").replaceChildren();
        const stored = new Map([["gpt2x.settings", JSON.stringify({ model: "two" })]]);
        const storage = { getItem: (key) => stored.get(key) ?? null,
                          setItem: (key, value) => stored.set(key, value) };
        const settings = new Settings(form, storage);
        const remembered = () => JSON.parse(stored.get("gpt2x.settings")).model;
        const models = () => [settings.values.model, remembered()];
        settings.set({ model: settings.values.model });
        const kept = models();
        form.dispatchEvent(new Event("input"));
        kept.push(...models());
        settings.offer(["one", "two"]);
        kept.push(...models());
        settings.offer(["one"]);
        return [kept, models()];
        """
    )
    assert found == [["two"] * 6, ["one", "one"]]

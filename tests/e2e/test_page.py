"""The page at / of the real agent in a real Chromium."""

import json
import os
import re
import socket
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter import __version__
from exporter.overview import MAX_EXAMPLES, SORTS
from tests.browser import Browser, open_browser
from tests.support import Agent, Server, StartAgent, wait_until

ROWS = "[...document.querySelectorAll('#list tbody tr')]"
ALL = "#sort=growth&order=desc"
"""Files that do not grow too."""
NAMES = f"{ROWS}.map(row => row.querySelector('b')?.textContent)"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all tests: each opens a page of its own agent."""
    with open_browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """As on a desk; a page that complains of anything, or asks another host for anything, fails its test."""
    chromium.call("Page.navigate", url="about:blank")
    chromium.requests.clear()
    chromium.complaints.clear()
    chromium.resize(1280)
    chromium.prefer(color_scheme="light")
    yield chromium
    assert chromium.complaints == []
    hosts = {urllib.parse.urlsplit(url).hostname for url in chromium.requests}
    assert hosts == {"127.0.0.1"}


Look = Callable[..., Browser]


@pytest.fixture
def look(browser: Browser) -> Look:
    """Opens the page of an agent and waits for its files: `look(agent, "#sort=size")`."""

    def look(agent: Agent, address: str = "") -> Browser:
        browser.open(f"{agent.url}/{address}")
        browser.wait_for(f"{ROWS}.length > 0")
        return browser

    return look


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A folder with three files that differ in everything."""
    folder = tmp_path / "logs"
    folder.mkdir()
    for name, size, mtime_s in (("app", 5000, 1_700_000_000), ("big", 50_000_000, 1_600_000_000), ("db", 10, 1.7e9)):
        (folder / f"{name}.log").touch()
        os.truncate(folder / f"{name}.log", size)
        os.utime(folder / f"{name}.log", (mtime_s, mtime_s))
    return folder


def text_of(browser: Browser, selector: str) -> str:
    """What a reader sees of the first element that a selector finds."""
    text = browser.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
    assert isinstance(text, str)
    return text


def problems(browser: Browser) -> dict[str, list[str]]:
    """The problems on the page, each with the lines below it, which this opens."""
    browser.evaluate("document.querySelectorAll('#problems details').forEach(each => { each.open = true })")
    found = "[...document.querySelectorAll('#problems > ul > li')].map(item => item.innerText.split('\\n'))"
    return {text: lines for text, *lines in browser.evaluate(found)}


def sorted_by(browser: Browser) -> dict[str, str]:
    """What the headings say of the order: text -> aria-sort."""
    told = "[...document.querySelectorAll('#list th[aria-sort]')].map(th => [th.textContent, th.ariaSort])"
    return dict(browser.evaluate(told))


def test_what_it_tells(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """Name and version, links that are answered, the files, and how they are followed; exact numbers in the titles."""
    agent = start_agent(f"{logs}/*.log")
    browser = look(agent, ALL)
    assert "fstat-exporter 0.1.0" in browser.evaluate("document.body.innerText")
    links = browser.evaluate("[...document.links].map(link => link.href)")
    assert all(link.startswith(agent.url) for link in links)
    paths = {urllib.parse.urldefrag(link).url.removeprefix(agent.url) for link in links}
    assert {"/metrics", "/-/healthy", "/-/ready", "/api/v1/files?sort=growth&limit=50"} <= paths
    assert {agent.get(path).status for path in paths} == {200}
    assert text_of(browser, "#total") == "3"
    assert text_of(browser, "#followed") == "3 watched"
    assert text_of(browser, "#groups tbody").startswith("default")
    assert (text_of(browser, "#health"), problems(browser)) == ("Healthy", {})
    assert re.fullmatch(r"\d+\.\d % CPU", text_of(browser, "#cost"))
    assert re.fullmatch(r"[\d.]+ MiB memory, \d+ watches, .* cache hits", text_of(browser, "#cost-detail"))
    text = browser.evaluate(f"{ROWS}.find(row => row.innerText.includes('big.log')).innerText")
    assert "47.7 MiB" in text
    assert "watched" in text
    exact = browser.evaluate(f"{ROWS}.find(row => row.innerText.includes('big.log')).cells[3].title")
    assert exact == "50,000,000 bytes"


def test_sort_by_clicking(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """A heading sorts, again the other way; so do the views, by the keyboard too. The address can be sent to others."""
    agent = start_agent(f"{logs}/*.log")
    browser = look(agent)
    assert sorted_by(browser) == {"Growth": "descending"}
    browser.click("th[data-sort=size] button")
    browser.wait_for(f"{NAMES}.join() === 'big.log,app.log,db.log'")
    assert sorted_by(browser) == {"Size": "descending"}
    browser.click("th[data-sort=size] button")
    browser.wait_for(f"{NAMES}.join() === 'db.log,app.log,big.log'")
    assert sorted_by(browser) == {"Size": "ascending"}
    browser.click("th[data-sort=path] button")
    browser.wait_for(f"{NAMES}.join() === 'app.log,big.log,db.log'")
    assert sorted_by(browser) == {"File": "ascending"}
    browser.evaluate("document.querySelector('#views [data-sort=silent]').focus()")
    browser.press("Enter", 13)
    browser.wait_for(f"{NAMES}[0] === 'big.log'")
    assert sorted_by(browser) == {"Last write": "descending"}
    pressed = "[...document.querySelectorAll('#views [aria-pressed=true]')].map(view => view.innerText)"
    assert browser.evaluate(pressed) == ["Silent longest"]
    address = browser.evaluate("location.hash")
    browser.call("Page.navigate", url="about:blank")
    look(agent, address)
    assert browser.evaluate(pressed) == ["Silent longest"]
    assert {
        th for th in browser.evaluate("[...document.querySelectorAll('#list th')].map(th => th.dataset.sort)") if th
    }
    assert set(browser.evaluate("[...document.querySelectorAll('[data-sort]')].map(e => e.dataset.sort)")) == set(SORTS)


def test_search_and_filter(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """What is typed is searched for; a group or a way to follow leaves the others out; nothing found is said."""
    config = f"logs: [{{group: one, paths: ['{logs}/app*']}}, {{group: two, paths: ['{logs}/*.log']}}]"
    browser = look(start_agent(config=config), ALL)
    browser.click("#search")
    browser.type("BIG")
    browser.wait_for(f"{NAMES}.join() === 'big.log'")
    assert browser.evaluate("document.querySelector('#matched').innerText") == "1 file"
    browser.type("ger")
    browser.wait_for(
        "document.querySelector('#list tbody').innerText === 'No file matches the search and the filters.'"
    )
    browser.evaluate("document.querySelector('#search').select()")
    browser.press("Delete", 46)
    browser.wait_for(f"{ROWS}.length === 3")
    browser.click("#groups tbody tr button")
    first = browser.evaluate("document.querySelector('#groups tbody tr button').innerText")
    browser.wait_for(f"{ROWS}.length === {1 if first == 'one' else 2}")
    assert browser.evaluate("document.querySelector('#group').value") == first
    browser.evaluate(
        "(how => { how.value = 'polled'; how.dispatchEvent(new Event('change')) })(document.querySelector('#how'))"
    )
    browser.wait_for(
        "document.querySelector('#list tbody').innerText === 'No file matches the search and the filters.'"
    )


def test_live_without_reloading(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """An append shows by itself, with its growth and a plot; a new file comes, a deleted one goes."""
    browser = look(start_agent(f"{logs}/*.log"), ALL)
    browser.evaluate("window.mark = document.querySelector('#list tbody tr')")
    app = f"{ROWS}.find(row => row.innerText.includes('app.log'))"
    assert browser.evaluate(f"{app}.cells[3].innerText") == "4.88 KiB"
    with (logs / "app.log").open("ab") as file:
        file.write(b"x" * 100_000)
    browser.wait_for(f"{app}.cells[3].innerText === '103 KiB'")
    browser.wait_for(f"{app}.cells[2].innerText.includes('97.7 KiB in')")
    assert browser.evaluate(f"{NAMES}[0]") == "app.log"
    plot = f"{app}.querySelector('svg')"
    browser.wait_for(f"{plot}.querySelector('.line').getAttribute('d')")
    assert browser.evaluate(f"{plot}.getAttribute('aria-label')").startswith("Growth in the last ")
    (logs / "new.log").touch()
    (logs / "db.log").unlink()
    browser.wait_for(f"{NAMES}.toSorted().join() === 'app.log,big.log,new.log'")
    assert browser.evaluate("document.contains(mark)")  # neither was the page loaded again nor the row made anew
    assert len([url for url in browser.requests if url.endswith("/")]) == 1


def test_history_begins_with_the_agent(logs: Path, start_agent: StartAgent) -> None:
    """What grew since the first scan is told to the first who asks; what was there before is no growth."""
    agent = start_agent(f"{logs}/*.log")
    with (logs / "app.log").open("ab") as file:
        file.write(b"x" * 700)
    answer = json.loads(agent.get("/api/v1/files").body)
    (row,) = (row for row in answer["files"] if row["path"].endswith("app.log"))
    assert sum(filter(None, row["history"])) == pytest.approx(700, abs=1)
    assert answer["history"]["begins_seconds"] < answer["as_of_seconds"]
    assert [sum(filter(None, other["history"])) for other in answer["files"] if other is not row] == [0, 0]


def test_pauses(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """While it is hidden or paused nothing is asked; afterwards at once."""
    browser = look(start_agent(f"{logs}/*.log"), ALL)
    browser.click("#pause")
    browser.wait_for("document.querySelector('#live').innerText === 'Paused'")
    before = len(browser.requests)
    (logs / "db.log").write_bytes(b"x" * 2000)
    browser.evaluate("new Promise(done => setTimeout(done, 3500))")  # longer than between two updates
    assert len(browser.requests) == before
    browser.click("#pause")
    browser.wait_for("document.querySelector('#list').innerText.includes('1.95 KiB')")
    assert browser.evaluate("document.querySelector('#live').innerText") == "Live"


def test_says_when_the_agent_does_not_answer(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """Above the last numbers, once; and goes on by itself."""
    agent = start_agent(f"{logs}/*.log")
    browser = look(agent, ALL)
    agent.stop()
    browser.wait_for("document.querySelector('#notice').innerText.startsWith('The agent does not answer.')")
    assert browser.evaluate("document.querySelector('#live').innerText") == "No answer"
    assert browser.evaluate(f"{ROWS}.length") == 3
    assert {text.split(" ")[0] for text in browser.complaints} <= {"Failed"}
    browser.complaints.clear()
    again = Server(agent.arguments, logs.parent / "again.out", agent.port)
    try:
        browser.wait_for("document.querySelector('#notice').hidden")
        assert browser.evaluate("document.querySelector('#live').innerText") == "Live"
    finally:
        again.stop()
    browser.complaints.clear()


HOSTILE = [
    b"<script>document.title='owned'</script>.log",
    b"<img src=x onerror=document.title='owned'>.log",
    b"\"'><b>&amp;${1}.log",
    b"line\nbreak\ttab\x1b[31m.log",
    "right-to-left \u202egol.exe.log".encode(),
    b"undecodable \xff\xfe.log",
    "日本語 ünï 🐟.log".encode(),
    b"x" * 251 + b".log",
]


@pytest.mark.parametrize("width", [1280, 360])
def test_hostile_names(tmp_path: Path, start_agent: StartAgent, look: Look, width: int) -> None:
    """Names are shown as text, whatever is in them: nothing runs, turns the text around or widens the page."""
    deep = tmp_path.joinpath(*["d" * 200] * 17)  # 4 KiB are the most that a path can have
    deep.mkdir(parents=True)
    (deep / "deep.log").touch()
    for name in HOSTILE:
        path = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    agent = start_agent(f"{tmp_path}/**/*.log")
    browser = look(agent, ALL)
    browser.resize(width)
    browser.wait_for(f"{ROWS}.length === {len(HOSTILE) + 1}")
    names = set(browser.evaluate(NAMES))
    assert "<script>document.title='owned'<" not in names
    assert names >= {
        "script>.log",  # what is behind the last slash
        HOSTILE[1].decode(),
        HOSTILE[2].decode(),
        "line⟨U+000A⟩break⟨U+0009⟩tab⟨U+001B⟩[31m.log",
        "right-to-left ⟨U+202E⟩gol.exe.log",
        "undecodable \\xff\\xfe.log",
        HOSTILE[6].decode(),
        HOSTILE[7].decode(),
        "deep.log",
    }
    assert browser.evaluate("document.title") == f"{socket.gethostname()} · fstat-exporter {__version__}"
    assert browser.evaluate("document.querySelectorAll('main script, main img, main b b').length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 360])
def test_hostile_problems(tmp_path: Path, start_agent: StartAgent, look: Look, width: int) -> None:
    """Paths, patterns, labels and error texts are shown as text; they run nothing and do not widen the page."""
    markup = "<img src=x onerror=document.title='owned'>"
    loop = tmp_path / f"{markup}\u202e{'x' * 100}"
    loop.symlink_to(loop)
    (tmp_path / "a.log").touch()
    group = {"group": markup, "paths": [f"{tmp_path}/*.log", f"{tmp_path}/*/*.log"], "labels": {"team": markup}}
    none = {"group": "none", "paths": [f"{tmp_path}/{markup}"]}
    config = json.dumps({"logs": [{**group, "aggregate_by": ["team"]}, none]})
    agent = start_agent(config=config)
    (tmp_path / "exporter-0.yml").write_text(config.replace('"logs"', f'{json.dumps(markup)}: 1, "logs"'))
    browser = look(agent, ALL)
    browser.resize(width)
    browser.wait_for("document.querySelector('#problems').innerText.includes('not in use')")
    found = problems(browser)
    assert found["1 directory cannot be listed"] == [
        f"{tmp_path}/{markup}⟨U+202E⟩{'x' * 100}: Too many levels of symbolic links"
    ]
    assert f"none: {tmp_path}/{markup}" in found["2 patterns match no file"]
    assert markup in found["The configuration on disk is not in use"][0]
    assert f"team={markup}" in text_of(browser, "#list tbody .labels")
    assert text_of(browser, "#aggregates tbody button") == f"team={markup}"
    assert f"team={markup}" in text_of(browser, "#groups tbody .labels")
    assert browser.evaluate("document.title") == f"{socket.gethostname()} · fstat-exporter {__version__}"
    assert browser.evaluate("document.querySelectorAll('main img').length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert min(contrast(browser).values()) >= 4.5


def test_says_which_host_it_is(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """First in the title, so that the tabs of two hosts differ, and in the heading."""
    browser = look(start_agent(f"{logs}/*.log"))
    assert browser.evaluate("document.title").startswith(f"{socket.gethostname()} ")
    assert text_of(browser, "h1").startswith(socket.gethostname())


def test_a_failed_reload(tmp_path: Path, logs: Path, start_agent: StartAgent, look: Look) -> None:
    """The page says that the configuration on disk is not in use, why, and since when; until it is in use again."""
    config = f"logs: [{{group: one, paths: ['{logs}/*.log']}}]"
    browser = look(start_agent(config=config))
    path = tmp_path / "exporter-0.yml"
    path.write_text(f"{config}\nno: such\n")
    browser.wait_for("document.querySelector('#health').innerText === '1 problem'")
    ((text, (error, when)),) = problems(browser).items()
    assert text == "The configuration on disk is not in use"
    assert error.startswith(f"{path}:2:1: no: ")
    assert re.fullmatch(r"reload failed at [\d-]+ [\d:]+, in use is that of [\d-]+ [\d:]+", when)
    path.write_text(config)
    browser.wait_for("document.querySelector('#health').innerText === 'Healthy'")
    assert problems(browser) == {}


def test_what_is_missing(tmp_path: Path, logs: Path, start_agent: StartAgent, look: Look) -> None:
    """Directories that cannot be listed and patterns without a match: all are counted, some are named."""
    for number in range(MAX_EXAMPLES + 5):
        (tmp_path / f"loop-{number:02}").symlink_to(f"loop-{number:02}")
    paths = [f"{logs}/*.log", f"{tmp_path}/loop-*/*.txt", f"{logs}/no/*.log"]
    browser = look(start_agent(config=f"logs: [{{group: one, paths: {json.dumps(paths)}}}]"))
    browser.wait_for("document.querySelector('#health').innerText === '1 problem'")  # the patterns may be right
    loops = [f"{tmp_path}/loop-{number:02}: Too many levels of symbolic links" for number in range(5)]
    assert problems(browser) == {
        f"{MAX_EXAMPLES + 5} directories cannot be listed": [*loops, f"and {MAX_EXAMPLES} more"],
        "2 patterns match no file": [f"one: {path}" for path in paths[1:]],
    }
    browser.click("#problems summary")
    (logs / "no").mkdir()
    (logs / "no/new.log").touch()
    browser.wait_for("document.querySelector('#problems').innerText.includes('1 pattern matches no file')")
    opened = "[...document.querySelectorAll('#problems details')].map(each => each.open)"
    assert browser.evaluate(opened) == [False, True]  # as they were


def test_rare_problems(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """An agent that is not healthy, files that fail to stat and late files: the page names them from the answers."""
    browser = look(start_agent(f"{logs}/*.log"))
    browser.evaluate("""(real => {
      window.fetch = async (url, options) => {
        const answer = await real(url, options);
        if (url.includes('healthy')) return new Response('The thread is dead.', { status: 503 });
        if (!url.includes('status')) return answer;
        const rare = { late_files: 1, hidden_files: 7, hidden_examples: ['/1', '/2', '/3', '/4', '/5', '/6', '/7'] };
        return Response.json({ ...(await answer.json()), ...rare });
      };
    })(window.fetch)""")
    browser.wait_for("document.querySelector('#health').innerText === '3 problems'")
    assert problems(browser) == {
        "The thread is dead.": [],
        "7 files fail to stat: without series until it succeeds": ["/1", "/2", "/3", "/4", "/5", "and 2 more"],
        "1 file is late: the remote filesystem does not answer": [],
    }


def test_deleted_files_and_uncertainty(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """The page names the groups with deleted files that are open, and beside the health the uncertain counts."""
    browser = look(start_agent(f"{logs}/*.log"))
    assert text_of(browser, "#health-detail") == "no queue overflow"
    browser.evaluate("""(real => {
      window.fetch = async (url, options) => {
        const answer = await real(url, options);
        if (!url.includes('groups')) return answer;
        const { groups: [group], ...rest } = await answer.json();
        const uncertain = { ...group.uncertain_total, flood: 2, absence: 1 };
        const open = { deleted_files: 2, deleted_disk_bytes: 3 << 20, uncertain_total: uncertain };
        return Response.json({ ...rest, groups: [{ ...group, ...open }, { ...group, group: 'other' }] });
      };
    })(window.fetch)""")
    browser.wait_for("document.querySelector('#problems li') !== null")
    assert problems(browser) == {
        "2 deleted files are still open and take 3.00 MiB of the disk: lsof +L1 names the processes; "
        "have them reopen their logs": ["default: 2 files, 3.00 MiB"],
    }
    assert text_of(browser, "#health") == "Healthy"  # some processes close them soon
    assert text_of(browser, "#health-detail") == "no queue overflow, 3 uncertainties"
    lines = browser.evaluate("document.querySelector('#health-detail').title").splitlines()
    assert [line for line in lines if "uncounted" in line] == [
        "Bytes may be uncounted, 2 times: files may have come and gone unseen in a busy directory",
        "Bytes may be uncounted, 1 time: gone or truncated while the agent did not run",
    ]


def test_rotated_files_are_told_apart(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """The page says why more files are watched than match."""
    browser = look(start_agent(f"{logs}/*.log"))
    (logs / "app.log").rename(logs / "app.log.1")
    (logs / "app.log").touch()
    browser.wait_for("document.querySelector('#followed').innerText === '4 watched'")
    assert text_of(browser, "#total") == "3"
    assert text_of(browser, "#total-detail").endswith("in 1 group, and 1 rotated file")
    assert text_of(browser, "#followed-detail") == "0 hot, none polled; 1 of them rotated"


def test_groups_and_aggregates(tmp_path: Path, logs: Path, start_agent: StartAgent, look: Look) -> None:
    """Truncations, files without series, and the sums by labels; labels have their names."""
    name = "path_regex: '/(?P<name>[a-z]+)\\.log$', aggregate_by: [name]"
    some = f"{{group: some, paths: ['{logs}/*.log'], max_series: 2, {name}}}"
    sums = f"{{group: sums, paths: ['{tmp_path}/more/*.log'], per_file: false}}"
    (tmp_path / "more").mkdir()
    for number in range(4):
        (tmp_path / f"more/{number}.log").touch()
    browser = look(start_agent(config=f"logs: [{some}, {sums}]"), ALL)
    os.truncate(logs / "big.log", 1000)
    group = "[...document.querySelectorAll('#groups tbody tr')].find(row => row.innerText.startsWith({!r}))"
    browser.wait_for(f"{group.format('some')}.cells[6].innerText.includes('1 truncation')")
    file = f"{ROWS}.find(row => row.innerText.startsWith('big.log'))"
    assert browser.evaluate(f"{file}.cells[5].innerText").split() == ["1", "1", "truncation"]
    assert browser.evaluate(f"{file}.querySelector('.labels').innerText") == "some · name=big"
    assert browser.evaluate(f"{group.format('some')}.cells[4].innerText").split("\n") == ["3", "1 without series"]
    none = ["4", "no file series (per_file: false)"]
    assert browser.evaluate(f"{group.format('sums')}.cells[4].innerText").split("\n") == none
    assert browser.evaluate(f"{ROWS}.filter(row => row.innerText.includes('without series')).length") == 1
    headings = "[...document.querySelectorAll('#aggregates th')].map(heading => heading.innerText)"
    assert browser.evaluate(headings) == ["Labels", "Growth", "Size", "Files", "Appended"]
    cells = "[...document.querySelectorAll('#aggregates tbody tr')].map(row => [...row.cells].map(td => td.innerText))"
    rows = {row[0].split("\n")[0]: row[1:] for row in browser.evaluate(cells)}
    assert rows.keys() == {"name=app", "name=big", "name=db"}
    assert rows["name=big"][1:] == ["1000 B", "1", "1000 B"]
    browser.evaluate("document.querySelector('#aggregates tbody button').click()")
    browser.wait_for(f"{ROWS}.length === 1 && {NAMES}[0] === 'big.log'")


def test_only_files_that_grow(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """Growing fastest lists those; when there are none it says so, with each heading at its place."""
    browser = look(start_agent(f"{logs}/*.log"))
    left = "[...document.querySelectorAll('#list th')].map(th => Math.round(th.getBoundingClientRect().left))"
    body = "document.querySelector('#list tbody').innerText"
    browser.wait_for(f"{body}.startsWith('No file grew in the last ')")
    assert text_of(browser, "#list tbody").endswith(" s. Biggest lists all 3 files.")
    empty = browser.evaluate(left)
    with (logs / "db.log").open("ab") as file:
        file.write(b"x" * 700)
    browser.wait_for(f"{NAMES}.join() === 'db.log'")
    assert text_of(browser, "#matched") == "1 of 3 files, the others did not grow"
    assert browser.evaluate(left) == empty
    browser.click("th[data-sort=growth] button")
    browser.wait_for(f"{ROWS}.length === 3")  # in the other order there are all


def test_first_file_on_a_phone(tmp_path: Path, start_agent: StartAgent, look: Look, browser: Browser) -> None:
    """However many groups and problems there are, the first file begins on the first screen."""
    groups = [{"group": f"group-{number}", "paths": [f"{tmp_path}/{number}.log"]} for number in range(20)]
    for number in range(15):
        (tmp_path / f"{number}.log").touch()
    browser.resize(390, 844, is_phone=True)
    look(start_agent(config=json.dumps({"logs": groups})), ALL)
    browser.wait_for("document.querySelector('#problems').innerText.includes('5 patterns match no file')")
    assert text_of(browser, "#health") == "Healthy"
    assert browser.evaluate(f"{ROWS}[0].getBoundingClientRect().top") < 844 - 60
    assert not browser.evaluate("document.querySelector('#groups').checkVisibility()")
    browser.click("#groups-title")
    browser.wait_for("document.querySelector('#groups').checkVisibility()")


def test_policy_holds(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """A script that somebody managed to put into the page does not run, and a request to another host is not made."""
    browser = look(start_agent(f"{logs}/*.log"))
    browser.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.owned = 1'}))"
    )
    browser.evaluate("fetch('http://192.0.2.1/').catch(() => 0)")
    assert browser.evaluate("window.owned") is None
    wait_until(lambda: browser.evaluate("1") and len(browser.complaints) >= 2)
    assert all("Content Security Policy" in text for text in browser.complaints), browser.complaints
    browser.complaints.clear()
    browser.requests[:] = [url for url in browser.requests if "192.0.2.1" not in url]


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_fits_the_screen(logs: Path, start_agent: StartAgent, look: Look, width: int) -> None:
    """Nothing has to be scrolled sideways, and nothing is cut off at the right."""
    folder = logs / "a-rather-long-name-of-a-folder-as-they-come" / "and-another-one-below-it"
    folder.mkdir(parents=True)
    (folder / "service-with-a-name.log").touch()
    config = f"logs: [{{group: a-long-name-of-a-group, paths: ['{logs}/**/*.log', /no/such], per_file: false}}]"
    browser = look(start_agent(config=config), ALL)
    browser.resize(width, 800, is_phone=width < 600)
    browser.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    is_beyond = "!e.closest('thead') && e.getBoundingClientRect().right > innerWidth + 1"
    beyond = f"[...document.querySelectorAll('main *')].filter(e => {is_beyond}).map(e => e.outerHTML)"
    assert browser.evaluate(beyond) == []
    if width < 600:
        controls = "main button, main select, main input, main summary"
        buttons = f"[...document.querySelectorAll({controls!r})].filter(e => e.offsetParent)"
        heights = browser.evaluate(f"{buttons}.map(e => e.getBoundingClientRect().height)")
        assert min(heights) >= 24  # WCAG 2.2, 2.5.8


def contrast(browser: Browser) -> dict[str, float]:
    """How text stands out from what is behind it: the least contrast of each colour, by WCAG's formula."""
    return dict(
        browser.evaluate("""(() => {
          const parse = (text) => text.match(/[\\d.]+/g).map(Number);
          const light = ([r, g, b]) => [r, g, b]
            .map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
          const behind = (e) => {
            const color = parse(getComputedStyle(e).backgroundColor);
            return color[3] === 0 ? e.parentElement ? behind(e.parentElement) : [255, 255, 255] : color;
          };
          const found = {};
          for (const e of document.querySelectorAll('body *')) {
            if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.offsetParent) continue;
            const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
            const ratio = (a + 0.05) / (b + 0.05);
            const name = getComputedStyle(e).color;
            found[name] = Math.min(found[name] ?? 99, ratio);
          }
          return Object.entries(found);
        })()""")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(logs: Path, start_agent: StartAgent, look: Look, scheme: str) -> None:
    """As the system is set; text has the contrast of WCAG's level AA in both."""
    browser = look(start_agent(f"{logs}/*.log"))
    browser.prefer(color_scheme=scheme)
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(ground.replace("rgb(", "[").replace(")", "]"))) > 380) == (scheme == "light")
    ratios = contrast(browser)
    assert len(ratios) >= 3
    assert min(ratios.values()) >= 4.5, ratios


def test_accessible(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """Every control and plot has a name for those who do not see it, and nothing moves for those who do not want it."""
    browser = look(start_agent(f"{logs}/*.log"))
    browser.call("Accessibility.enable")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = ("button", "link", "searchbox", "combobox", "table", "columnheader", "img", "image", "search")
    seen = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]}
    assert {role for role, _ in seen} >= {"button", "link", "searchbox", "combobox", "table", "columnheader", "row"}
    assert [(role, name) for role, name in seen if role in named and role != "search" and not name] == []
    browser.call("Accessibility.disable")
    assert browser.evaluate("document.getAnimations().length") > 0
    browser.prefer(prefers_reduced_motion="reduce", reduced_motion="reduce")
    assert browser.evaluate("document.getAnimations().length") == 0


def test_an_address_that_is_out_of_date(logs: Path, start_agent: StartAgent, look: Look, browser: Browser) -> None:
    """A group that is no more: the page says so and shows everything."""
    agent = start_agent(f"{logs}/*.log")
    look(agent, "#group=gone&sort=size")
    browser.wait_for("document.querySelector('#notice').innerText.includes(\"no group 'gone'\")")
    assert text_of(browser, "#matched").startswith("0 of 3 files")
    browser.click("th[data-sort=size] button")
    browser.wait_for("document.querySelector('#notice').hidden")
    assert [text for text in browser.complaints if "400" not in text] == []
    browser.complaints.clear()


UNREAD = "getComputedStyle(document.querySelector('#list th.unread')).display !== 'none'"


@pytest.fixture
def shipped(tmp_path: Path, logs: Path, start_agent: StartAgent) -> Agent:
    """An agent with two shippers: one has not read all of `app.log` and `db.log`, the other has a damaged state."""
    positions = {"app.log": 1000, "db.log": 3}
    lines = [f"  {logs}/{name}: '{offset}'" for name, offset in positions.items()]
    (tmp_path / "positions.yml").write_text("\n".join(["positions:", *lines]))
    (tmp_path / "damaged").write_text("nothing")
    shippers = [
        {"name": "loki-with-a-long-name", "type": "promtail", "path": f"{tmp_path}/positions.yml"},
        {"name": "datadog", "type": "datadog", "path": f"{tmp_path}/damaged", "groups": ["other"]},
    ]
    groups = [{"group": "one", "paths": [f"{logs}/*.log"]}, {"group": "other", "paths": [f"{logs}/*.txt"]}]
    return start_agent(config=json.dumps({"logs": groups, "shippers": shippers}))


def test_unread_bytes(tmp_path: Path, shipped: Agent, look: Look) -> None:
    """Of each file and group, to sort and filter by; a state that cannot be read is a problem, with its fault."""
    browser = look(shipped, ALL)
    assert browser.evaluate(UNREAD)
    cells = f"Object.fromEntries({ROWS}.map(row => [row.querySelector('b').textContent, row.cells[6].innerText]))"
    assert browser.evaluate(cells) == {"app.log": "3.91 KiB", "big.log": "\u2013\nunclaimed", "db.log": "7.0 B"}
    title = f"{ROWS}.find(row => row.innerText.includes('app.log')).cells[6].title"
    assert browser.evaluate(title) == "loki-with-a-long-name: 4,000 bytes unread"
    group = "[...document.querySelectorAll('#groups tbody tr')].find(row => row.innerText.startsWith('one')).cells[7]"
    assert browser.evaluate(f"{group}.innerText").split("\n") == ["3.91 KiB", "loki-with-a-long-name, 1 unclaimed"]
    ((text, (fault,)),) = [each for each in problems(browser).items() if "shipper" in each[0]]
    assert text == "1 shipper has a state that cannot be read: its last positions stay"
    assert fault.startswith(f"datadog: {tmp_path}/damaged: ")
    assert text_of(browser, "#health") == "1 problem"
    browser.click("th[data-sort=unread] button")
    browser.wait_for(f"{NAMES}.join() === 'app.log,db.log,big.log'")
    assert sorted_by(browser) == {"Unread": "descending"}
    chosen = "unread.value = 'true'; unread.dispatchEvent(new Event('change'))"
    browser.evaluate(f"(unread => {{ {chosen} }})(document.querySelector('#unread'))")
    browser.wait_for(f"{NAMES}.join() === 'app.log,db.log'")
    assert browser.evaluate("location.hash") == "#sort=unread&unread=true"


def test_no_unread_bytes_without_shippers(logs: Path, start_agent: StartAgent, look: Look) -> None:
    """Nothing of them is shown."""
    browser = look(start_agent(f"{logs}/*.log"), ALL)
    assert not browser.evaluate(UNREAD)
    visible = "[...document.querySelectorAll('.unread')].filter(each => each.checkVisibility()).length"
    assert browser.evaluate(visible) == 0


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_unread_bytes_fit_the_screen(shipped: Agent, look: Look, width: int) -> None:
    """Nothing has to be scrolled sideways, and nothing is cut off at the right."""
    browser = look(shipped, ALL)
    browser.resize(width, 800, is_phone=width < 600)
    browser.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert browser.evaluate(UNREAD)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    is_beyond = "!e.closest('thead') && e.getBoundingClientRect().right > innerWidth + 1"
    beyond = f"[...document.querySelectorAll('main *')].filter(e => {is_beyond}).map(e => e.outerHTML)"
    assert browser.evaluate(beyond) == []
    assert min(contrast(browser).values()) >= 4.5

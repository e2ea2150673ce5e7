// The page at /: fetches the agent's JSON API every few seconds while it is visible, and shows the answers.
// Paths, labels and error texts are hostile input. They become text (textContent), never markup.

const EVERY_MS = 3000;
const TIMEOUT_MS = 10000;
const TYPING_MS = 150;
const FIRST_ROWS = 20;
const MOST_ROWS = 1000;
const FEW_GROUPS = 5;
const FEW_AGGREGATES = 8;
const FEW_EXAMPLES = 5;
const NARROW = matchMedia("(max-width: 47rem)"); // as in page.css
const WIDTH = 240; // of a plot, in its own units
const HEIGHT = 40;

const $ = (id) => document.getElementById(id);

// The address has it behind its #, so that a view can be sent to somebody else.
const state = { sort: "growth", order: "", search: "", group: "", followed: "", unread: "", window: "60", limit: FIRST_ROWS };

let isPaused = false;
let areAllGroupsShown = false;
let areAllAggregatesShown = false;
let timer = 0;
let asking = null; // the AbortController of the requests under way
let shown = null; // the latest answers: {files, groups, status, fault}
let isFailing = false;
let objection = ""; // why the agent refused an address, until the next choice

// -- numbers and names ------------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en");
const PREFIXES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

function bytes(size) {
  const power = Math.min(Math.floor(Math.log2(Math.max(size, 1)) / 10), PREFIXES.length - 1);
  const value = size / 1024 ** power;
  const digits = power === 0 ? (value && value < 10 ? 1 : 0) : value < 10 ? 2 : value < 100 ? 1 : 0;
  return `${value.toFixed(digits)} ${PREFIXES[power]}`;
}

const rate = (bytesPerSecond) =>
  bytesPerSecond > 0 && bytesPerSecond < 0.1 ? "< 0.1 B/s" : `${bytes(bytesPerSecond)}/s`;

function duration(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * length || (unit !== "min" && seconds >= length)) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

const ago = (seconds) => (seconds < 1 ? "just now" : `${duration(seconds)} ago`);
const clock = (unixSeconds) => new Date(unixSeconds * 1000).toLocaleTimeString();
const day = (unixSeconds) => new Date(unixSeconds * 1000).toLocaleString("sv"); // as ISO 8601 has it, in local time
const moment = (unixSeconds) => new Date(unixSeconds * 1000).toISOString().replace("T", " ");
const count = (number, one, many) => `${whole.format(number)} ${number === 1 ? one : many}`;
const labelled = (labels) => visible(Object.entries(labels).map(([name, value]) => `${name}=${value}`).join(" · "));

// Characters that are invisible, or that turn the text around them, are shown by their numbers.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]/g;
const visible = (text) =>
  text.replace(INVISIBLE, (found) => `⟨U+${found.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

// -- making elements --------------------------------------------------------------------------------------------------

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

// Only what differs is written, so that a selection and a tooltip stay.
function setText(node, text, title = "") {
  if (node.textContent !== text) node.textContent = text;
  setAttribute(node, "title", title);
}

function setAttribute(node, name, value) {
  if (!value) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function cell(className, label = "") {
  const made = element("td", className);
  made.setAttribute("role", "cell");
  if (label) made.dataset.label = label;
  return made;
}

function twoLines(td, text, small, title) {
  if (!td.lastElementChild) td.append(element("span"), element("small"));
  setText(td.firstElementChild, text);
  setText(td.lastElementChild, small);
  setAttribute(td, "title", title);
}

// -- plots ------------------------------------------------------------------------------------------------------------

function makePlot() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.append(document.createElementNS(svg.namespaceURI, "title"));
  for (const part of ["ground", "unknown", "area", "line"]) {
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("class", part);
    svg.append(path);
  }
  return svg;
}

// The mean rate in each step; the running step only after a third of it. null: not known.
function rates(steps, answer) {
  const { step_seconds: step, begins_seconds: begins, first_step_seconds: first } = answer.history;
  const last = steps.length - 1;
  return steps.map((size, index) => {
    const begin = Math.max(first + index * step, begins);
    const length = Math.min(first + (index + 1) * step, answer.as_of_seconds) - begin;
    return size === null || (index === last && length < step / 3) || length <= 0 ? null : size / length;
  });
}

function drawPlot(svg, steps, answer) {
  const values = rates(steps, answer);
  const known = values.flatMap((value, index) => (value === null ? [] : [[index, value]]));
  const peak = Math.max(0, ...known.map(([, value]) => value));
  const across = (index) => ((index * WIDTH) / (steps.length - 1)).toFixed(1);
  const up = (value) => (HEIGHT - 1 - (peak ? (value / peak) * (HEIGHT - 4) : 0)).toFixed(1);
  const [title, ground, unknown, area, line] = svg.children;
  const begin = known.length ? across(known[0][0]) : WIDTH;
  setAttribute(unknown, "d", begin > 0 ? `M0 ${HEIGHT - 1}H${begin}` : "");
  setAttribute(ground, "d", known.length ? `M${begin} ${HEIGHT - 1}H${WIDTH}` : "");
  const points = known.map(([index, value]) => `${across(index)} ${up(value)}`).join("L");
  const end = known.length ? across(known[known.length - 1][0]) : 0;
  setAttribute(line, "d", peak ? `M${points}` : "");
  setAttribute(area, "d", peak ? `M${begin} ${HEIGHT - 1}L${points}L${end} ${HEIGHT - 1}Z` : "");
  const told = known.length
    ? `Growth in the last ${span(answer)}: ${bytes(total(steps))}, at most ${rate(peak)}`
    : "Growth is not known yet";
  setText(title, told);
  setAttribute(svg, "aria-label", told);
}

// How long all steps are together: the last 15 minutes, or less while the history is younger.
function span(answer) {
  const { begins_seconds: begins, steps, step_seconds: step } = answer.history;
  return duration(Math.min(answer.as_of_seconds - begins, steps * step));
}

const sum = (items, numberOf) => items.reduce((all, item) => all + numberOf(item), 0);
const total = (steps) => sum(steps, (size) => size ?? 0);

// -- rows -------------------------------------------------------------------------------------------------------------

// Show one row each item; a row stays the same element as long as its item is there.
function showRows(table, items, keyOf, make, update, nothing) {
  const body = table.tBodies[0];
  const kept = (table.rowsByKey ??= new Map());
  const rows = new Map();
  let place = body.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let row = kept.get(key);
    if (!row) {
      row = element("tr");
      row.setAttribute("role", "row");
      make(row, item);
    }
    update(row, item);
    rows.set(key, row);
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
  }
  while (place) {
    const next = place.nextElementSibling;
    place.remove();
    place = next;
  }
  table.rowsByKey = rows;
  if (!items.length) {
    const row = element("tr");
    row.setAttribute("role", "row");
    const empty = cell("empty none");
    empty.colSpan = [...table.tHead.rows[0].cells].filter((heading) => heading.checkVisibility()).length;
    empty.textContent = nothing;
    row.append(empty);
    body.append(row);
  }
}

function plotCell() {
  const td = cell("trend");
  const plot = element("div", "plot");
  plot.append(makePlot());
  td.append(plot);
  return td;
}

function showGrowth(td, item, answer) {
  const growth = item.growth_bytes_per_second;
  if (item.appended_bytes_total === null) {
    twoLines(td, "–", "", "Its growth counts for another name of this file");
  } else {
    const grown = total(item.history);
    twoLines(
      td,
      growth === null ? "…" : rate(growth),
      grown ? `${bytes(grown)} in ${span(answer)}` : "",
      growth === null
        ? "The history begins now"
        : `${whole.format(growth)} bytes a second over the last ${Math.round(answer.window_seconds)} s; ` +
            `${whole.format(item.appended_bytes_total)} bytes appended since the file was first seen`,
    );
  }
  td.firstElementChild.classList.toggle("none", !growth);
}

function showTime(td, unixSeconds, answer) {
  if (unixSeconds === null) setText(td, "–");
  else setText(td, ago(answer.as_of_seconds - unixSeconds), moment(unixSeconds));
}

function makeFile(row, file) {
  const name = cell("name");
  const cut = file.path.lastIndexOf("/") + 1;
  const labels = labelled(file.labels);
  name.append(
    element("b", "", visible(file.path.slice(cut))),
    element("small", "folder", visible(file.path.slice(0, cut))),
    element("small", "labels"),
  );
  name.lastElementChild.textContent = [visible(file.group), labels].filter(Boolean).join(" · ");
  name.title = `${visible(file.path)}\n${name.lastElementChild.textContent}`;
  row.append(
    name,
    plotCell(),
    cell("number"),
    cell("number", "Size"),
    cell("number", "Last write"),
    cell("number", "Changes"),
    cell("number unread", "Unread"),
    cell("status"),
  );
  row.lastElementChild.append(element("span"), element("small"));
}

// The bytes that no shipper has read yet, or the largest number of several shippers.
function showUnread(td, { unread_bytes: unread }) {
  const sizes = Object.values(unread);
  const known = sizes.filter((size) => size !== null);
  const lines = Object.entries(unread).map(
    ([name, size]) => `${visible(name)}: ${size === null ? "no position" : `${whole.format(size)} bytes unread`}`,
  );
  const isUnclaimed = sizes.length && !known.length;
  twoLines(td, known.length ? bytes(Math.max(...known)) : "–", isUnclaimed ? "unclaimed" : "", lines.join("\n"));
  td.firstElementChild.classList.toggle("none", !Math.max(0, ...known));
}

const REASONS = {
  watch_limit: "no watch left: raise fs.inotify.max_user_watches",
  instance_limit: "no inotify instance left: raise fs.inotify.max_user_instances",
  permission: "no permission to read it",
  unsupported: "the kernel refuses to watch it",
  thread_failed: "the thread that follows changes failed: restart the agent",
  filesystem: "its filesystem reports no changes",
  remote: "other machines may write to its filesystem",
  audit: "it changed without an event",
  max_files: "no room in the cache: raise cache.max_files",
};

const HOW = {
  watched: "The kernel notifies the agent of each change",
  hot: "Written all the time: sampled every half second",
  polled: "One stat each scrape",
};

function updateFile(row, file) {
  const answer = shown.files;
  const [, trend, growth, size, time, changes, unread, status] = row.cells;
  drawPlot(trend.firstElementChild.firstElementChild, file.history, answer);
  showGrowth(growth, file, answer);
  setText(size, bytes(file.size_bytes), `${whole.format(file.size_bytes)} bytes`);
  showTime(time, file.mtime_seconds, answer);
  twoLines(
    changes,
    file.changes_total === null ? "–" : whole.format(file.changes_total),
    file.truncations_total ? count(file.truncations_total, "truncation", "truncations") : "",
    "",
  );
  showUnread(unread, file);
  const reason = file.polled_reason;
  const [how, small] = status.children;
  how.className = `how ${file.followed}`;
  setText(how, file.followed, reason ? `${HOW.polled}: ${REASONS[reason] ?? reason}` : HOW[file.followed]);
  const isWithout = !file.has_series && shown.groups.groups.some((group) => group.group === file.group && group.per_file);
  setText(small, [reason?.replaceAll("_", " "), isWithout ? "without series" : ""].filter(Boolean).join(", "));
}

function makeGroup(row, group) {
  const name = cell("name");
  const button = element("button", "", visible(group.group));
  button.type = "button";
  button.title = "Show the files of this group only";
  button.addEventListener("click", () => change({ group: group.group }));
  const aggregates = element("button", "more");
  aggregates.type = "button";
  aggregates.title = "Go to the aggregates";
  aggregates.addEventListener("click", () => {
    $("aggregates-section").firstElementChild.open = true;
    $("aggregates-section").scrollIntoView();
  });
  const labels = element("small", "labels");
  name.append(button, labels, aggregates);
  row.append(
    name,
    plotCell(),
    cell("number"),
    cell("number", "Size"),
    cell("number", "Files"),
    cell("number", "Last write"),
    cell("number", "Rotations"),
    cell("number unread", "Unread"),
  );
}

function updateGroup(row, group) {
  const answer = shown.groups;
  const [name, trend, growth, size, files, time, rotations, unread] = row.cells;
  const labels = name.children[1];
  setText(labels, labelled(group.labels));
  labels.hidden = !labels.textContent;
  name.lastElementChild.hidden = !group.aggregates;
  setText(name.lastElementChild, count(group.aggregates, "aggregate", "aggregates"), name.lastElementChild.title);
  drawPlot(trend.firstElementChild.firstElementChild, group.history, answer);
  showGrowth(growth, group, answer);
  setText(size, bytes(group.size_bytes), `${whole.format(group.size_bytes)} bytes`);
  const without = group.files_without_series;
  twoLines(
    files,
    whole.format(group.files),
    [group.per_file ? "" : "no file series (per_file: false)", without ? `${whole.format(without)} without series` : ""]
      .filter(Boolean)
      .join(", "),
    without ? "max_series leaves them no series; they count in the sums of the group" : "",
  );
  showTime(time, group.newest_mtime_seconds, answer);
  const { rotations_total: rotated, truncations_total: truncated } = group;
  twoLines(rotations, whole.format(rotated), truncated ? count(truncated, "truncation", "truncations") : "", "");
  const shippers = Object.entries(group.shippers);
  while (unread.children.length > shippers.length) unread.lastElementChild.remove();
  shippers.forEach(([name, of], at) => showShipper(unread.children[at] ?? unread.appendChild(element("div")), name, of));
}

function showShipper(line, name, of) {
  const { files, lost_bytes_total: lost, oldest_unread_seconds: oldest, unaccounted_bytes_total: unaccounted } = of;
  const parts = [
    oldest >= 1 && `${duration(oldest)} old`,
    ...["behind", "held", "unclaimed"].map((state) => files[state] && `${whole.format(files[state])} ${state}`),
    lost && `${bytes(lost)} lost`,
  ];
  const title =
    `${whole.format(of.unread_bytes)} bytes unread, ${whole.format(lost)} lost, ${whole.format(unaccounted)} unaccounted; ` +
    Object.entries(files).map(([state, number]) => `${whole.format(number)} ${state}`).join(", ");
  twoLines(line, bytes(of.unread_bytes), [visible(name), ...parts].filter(Boolean).join(", "), title);
}

function makeAggregate(row, aggregate) {
  const name = cell("name");
  const button = element("button", "", labelled(aggregate.labels) || "no labels");
  button.type = "button";
  button.title = "Search for these labels";
  button.addEventListener("click", () =>
    change({ group: aggregate.group, search: Object.values(aggregate.labels).join(" ") }),
  );
  name.append(button, element("small", "labels"));
  row.append(name, cell("number"), cell("number", "Size"), cell("number", "Files"), cell("number", "Appended"));
}

function updateAggregate(row, aggregate) {
  const [name, growth, size, files, appended] = row.cells;
  setText(name.lastElementChild, visible(aggregate.group) + (aggregate.has_series ? "" : " · without series"));
  const speed = aggregate.growth_bytes_per_second;
  setText(growth, speed === null ? "…" : rate(speed));
  growth.classList.toggle("none", !speed);
  setText(size, bytes(aggregate.size_bytes), `${whole.format(aggregate.size_bytes)} bytes`);
  setText(files, whole.format(aggregate.files));
  setText(appended, bytes(aggregate.appended_bytes_total), `${whole.format(aggregate.appended_bytes_total)} bytes`);
}

// Why bytes may have gone uncounted.
const UNCERTAIN = {
  truncated: "a truncation within a second after growth",
  overflow: "the kernel dropped events",
  deleted: "written right before it was gone",
  flood: "files may have come and gone unseen in a busy directory",
  unwatched: "written after its last known name was gone",
  absence: "gone or truncated while the agent did not run",
};

// -- what is wrong ----------------------------------------------------------------------------------------------------

// Each problem is a line of text and, at most, some examples. Those of these kinds may be as they should.
const HARMLESS = ["unmatched", "deleted"];

function findProblems() {
  const { fault, groups, status } = shown;
  const { configuration, directories, patterns } = status;
  const problems = [];
  const add = (kind, text, examples = [], all = examples.length) => {
    const few = examples.slice(0, FEW_EXAMPLES);
    if (all > few.length) few.push(`and ${whole.format(all - few.length)} more`);
    problems.push({ kind, text, examples: few });
  };
  if (fault) add("fault", fault);
  if (configuration.failed_seconds !== null) {
    add("reload", "The configuration on disk is not in use", [
      configuration.error,
      `reload failed at ${day(configuration.failed_seconds)}, in use is that of ${day(configuration.loaded_seconds)}`,
    ]);
  }
  if (directories.unreadable) {
    add(
      "unreadable",
      `${count(directories.unreadable, "directory", "directories")} cannot be listed`,
      directories.unreadable_examples.map(({ path, reason }) => `${path}: ${reason}`),
      directories.unreadable,
    );
  }
  if (status.hidden_files) {
    const text = `${count(status.hidden_files, "file fails", "files fail")} to stat: without series until it succeeds`;
    add("hidden", text, status.hidden_examples, status.hidden_files);
  }
  if (patterns.unmatched) {
    add(
      "unmatched",
      count(patterns.unmatched, "pattern matches no file", "patterns match no file"),
      patterns.unmatched_examples.map(({ group, pattern }) => `${group}: ${pattern}`),
      patterns.unmatched,
    );
  }
  const deleted = groups.groups.filter((group) => group.deleted_files);
  if (deleted.length) {
    const [files, size] = ["deleted_files", "deleted_disk_bytes"].map((name) => sum(deleted, (group) => group[name]));
    const text = `${count(files, "deleted file is still open and takes", "deleted files are still open and take")} `;
    const examples = deleted.map((group) => {
      return `${group.group}: ${count(group.deleted_files, "file", "files")}, ${bytes(group.deleted_disk_bytes)}`;
    });
    add("deleted", `${text}${bytes(size)} of the disk: lsof +L1 names the processes; have them reopen their logs`, examples);
  }
  const unread = status.shippers.filter(({ error }) => error);
  if (unread.length) {
    const text = `${count(unread.length, "shipper has a state", "shippers have a state")} that cannot be read: its last positions stay`;
    add("shippers", text, unread.map(({ shipper, error }) => `${shipper}: ${error}`));
  }
  if (status.late_files) {
    add("late", `${count(status.late_files, "file is", "files are")} late: the remote filesystem does not answer`);
  }
  return problems;
}

// They are rendered again only when they differ, so that a selection stays; what is open or closed stays so.
function showProblems(problems) {
  const list = $("problems").lastElementChild;
  $("problems").hidden = !problems.length;
  const told = JSON.stringify(problems);
  if (list.told === told) return;
  list.told = told;
  const wereOpen = new Map([...list.querySelectorAll("details")].map(({ dataset, open }) => [dataset.kind, open]));
  list.replaceChildren(
    ...problems.map(({ kind, text, examples }) => {
      const item = element("li");
      if (!examples.length) {
        item.textContent = text;
        return item;
      }
      const details = element("details");
      details.dataset.kind = kind;
      details.open = wereOpen.get(kind) ?? !NARROW.matches;
      const lines = element("ul");
      lines.append(...examples.map((example) => element("li", "", visible(example))));
      details.append(element("summary", "", text), lines);
      item.append(details);
      return item;
    }),
  );
}

// -- the whole --------------------------------------------------------------------------------------------------------

function showSummary() {
  const { groups, status } = shown;
  const { cache, followed } = status;
  $("summary").hidden = false;

  const known = groups.groups.every((group) => group.growth_bytes_per_second !== null);
  const growth = groups.groups.reduce((sum, group) => sum + group.growth_bytes_per_second, 0);
  const history = groups.groups.reduce(
    (sums, group) => sums.map((sum, index) => (group.history[index] === null ? null : sum + group.history[index])),
    new Array(groups.history.steps).fill(0),
  );
  setText($("growth"), known ? rate(growth) : "…", known ? `${whole.format(growth)} bytes a second over the last ${Math.round(groups.window_seconds)} s` : "");
  setText(
    $("growth-detail"),
    known ? `${bytes(total(history))} in ${span(groups)}` : "the history begins now",
  );
  const plot = $("growth-plot");
  if (!plot.firstElementChild) plot.append(makePlot());
  drawPlot(plot.firstElementChild, history, groups);

  setText($("total"), whole.format(status.files));
  const rotated = status.rotated_files;
  setText(
    $("total-detail"),
    `${bytes(status.size_bytes)} in ${count(status.groups, "group", "groups")}` +
      (rotated ? `, and ${count(rotated, "rotated file", "rotated files")}` : ""),
    `${whole.format(status.size_bytes)} bytes` +
      (rotated ? "; rotated files match no pattern, and are followed until they are quiet" : ""),
  );

  const polled = Object.values(followed.polled).reduce((sum, files) => sum + files, 0);
  const shares = [["watched", followed.watched], ["hot", followed.hot], ["polled", polled]].filter(([, files]) => files);
  const reasons = Object.entries(followed.polled).map(
    ([reason, files]) => `${whole.format(files)} polled (${reason.replaceAll("_", " ")})`,
  );
  setText(
    $("followed"),
    `${whole.format(followed.watched)} watched`,
    rotated ? `${HOW.watched}; rotated files are followed too` : HOW.watched,
  );
  setText(
    $("followed-detail"),
    [`${whole.format(followed.hot)} hot`, ...(reasons.length ? reasons : ["none polled"])].join(", ") +
      (rotated ? `; ${whole.format(rotated)} of them rotated` : ""),
    Object.keys(followed.polled).map((reason) => `${reason}: ${REASONS[reason] ?? reason}`).join("\n"),
  );
  $("followed-bar").replaceChildren(
    ...shares.map(([how, files]) => {
      const part = element("i", how);
      part.style.flexGrow = files;
      return part;
    }),
  );

  const { cpu_seconds_total: cpu, resident_memory_bytes: memory, start_time_seconds: start } = status.process;
  const age = status.as_of_seconds - start;
  setText(
    $("cost"),
    cpu === null ? "–" : `${((100 * cpu) / age).toFixed(1)} % CPU`,
    cpu === null ? "" : `${cpu.toFixed(1)} s of one core in the ${duration(age)} since the start of the agent`,
  );
  const looked = cache.hits_total + cache.misses_total;
  const hits = looked ? `${(Math.floor(cache.hit_ratio * 1000) / 10).toFixed(1)} %` : "no";
  const room = cache.max_files === null ? "" : ` of ${whole.format(cache.max_files)}`;
  const allowed = cache.max_watches === null ? "" : `; ${whole.format(cache.max_watches)} are allowed`;
  setText(
    $("cost-detail"),
    [
      ...(memory === null ? [] : [`${bytes(memory)} memory`]),
      count(cache.watches, "watch", "watches"),
      `${hits} cache hits`,
    ].join(", "),
    [
      `${whole.format(cache.watches - cache.directory_watches)} watches of files, ` +
        `${whole.format(cache.directory_watches)} of directories${allowed}`,
      `${whole.format(cache.hits_total)} hits, ${count(cache.misses_total, "miss", "misses")}, ` +
        count(cache.evictions_total, "eviction", "evictions"),
      `${whole.format(cache.files)}${room} files are in the cache`,
    ].join("\n"),
  );

  const problems = findProblems();
  showProblems(problems);
  const grave = problems.filter(({ kind }) => !HARMLESS.includes(kind)).length;
  setText($("health"), grave ? count(grave, "problem", "problems") : "Healthy");
  $("health").classList.toggle("bad", grave > 0);
  $("problems").classList.toggle("bad", grave > 0);
  const doubts = Object.keys(groups.groups[0].uncertain_total)
    .map((reason) => [reason, sum(groups.groups, (group) => group.uncertain_total[reason])])
    .filter(([, times]) => times);
  const uncertain = sum(doubts, ([, times]) => times);
  const failures = Object.entries(cache.watch_failures_total);
  const failed = failures.reduce((sum, [, files]) => sum + files, 0);
  setText(
    $("health-detail"),
    [
      ...(cache.queue_overflows_total ? [] : ["no queue overflow"]),
      ...[
        [cache.queue_overflows_total, "queue overflow", "queue overflows"],
        [failed, "failed watch", "failed watches"],
        [cache.audit_mismatches_total, "mismatch", "mismatches"],
        [uncertain, "uncertainty", "uncertainties"],
      ].flatMap(([number, one, many]) => (number ? [count(number, one, many)] : [])),
    ].join(", "),
    [
      `${count(cache.queue_overflows_total, "overflow", "overflows")} of the kernel's queue; each costs a stat of every file`,
      ...failures.map(([reason, files]) => `${whole.format(files)} could not be watched: ${REASONS[reason] ?? reason}`),
      `${whole.format(cache.audit_mismatches_total)} of ${count(cache.audit_checks_total, "check", "checks")} ` +
        "found a change without an event",
      ...doubts.map(([reason, times]) => `Bytes may be uncounted, ${count(times, "time", "times")}: ${UNCERTAIN[reason] ?? reason}`),
    ].join("\n"),
  );
}

function showTools() {
  const names = shown.groups.groups.map((group) => group.group);
  const choice = $("group");
  if (choice.options.length !== names.length + 1 || names.some((name, at) => choice.options[at + 1].value !== name)) {
    choice.replaceChildren(
      new Option("all", ""),
      ...names.map((name) => new Option(visible(name), name)),
    );
  }
  showState();
}

function showState() {
  $("group").value = state.group;
  $("how").value = state.followed;
  $("unread").value = state.unread;
  $("window").value = state.window;
  if (document.activeElement !== $("search")) $("search").value = state.search;
  for (const button of $("views").children) {
    button.setAttribute("aria-pressed", String(button.dataset.sort === state.sort && !state.order));
  }
  const order = state.order || (state.sort === "path" ? "asc" : "desc");
  for (const heading of $("list").tHead.rows[0].cells) {
    const sorts = heading.dataset.sort === state.sort;
    setAttribute(heading, "aria-sort", sorts ? (order === "asc" ? "ascending" : "descending") : "");
  }
}

function show() {
  $("view").classList.toggle("shippers", shown.status.shippers.length > 0);
  showSummary();
  showTools();
  showGroups();
  showFiles();
  showAggregates();
}

function showGroups() {
  const { groups } = shown.groups;
  const byGrowth = groups.toSorted((a, b) => b.growth_bytes_per_second - a.growth_bytes_per_second);
  const few = areAllGroupsShown ? byGrowth : byGrowth.slice(0, FEW_GROUPS);
  setText($("groups-count"), whole.format(groups.length));
  $("all-groups").hidden = few.length === byGrowth.length;
  setText($("all-groups"), `Show all ${byGrowth.length} groups`);
  showRows($("groups"), few, (group) => group.group, makeGroup, updateGroup, "There are no groups.");
}

function showAggregates() {
  const { aggregates, groups } = shown.groups;
  const few = areAllAggregatesShown ? aggregates : aggregates.slice(0, FEW_AGGREGATES);
  const all = groups.reduce((sum, group) => sum + group.aggregates, 0);
  $("aggregates-section").hidden = !all;
  setText($("aggregates-count"), few.length < all ? `${few.length} of ${whole.format(all)}, the fastest first` : `${all}`);
  $("all-aggregates").hidden = few.length === aggregates.length;
  setText($("all-aggregates"), `Show ${aggregates.length} aggregates`);
  const keyOf = ({ group, labels }) => JSON.stringify([group, labels]);
  showRows($("aggregates"), few, keyOf, makeAggregate, updateAggregate, "There are no aggregates.");
}

function showFiles() {
  const { files, history, matched, ...answer } = shown.files;
  const isOfGrowing = state.sort === "growth" && !state.order;
  const chosen = isOfGrowing ? files.filter((file) => file.growth_bytes_per_second > 0) : files;
  const isFiltered = state.search || state.group || state.followed || state.unread;
  let nothing = "No file matches the patterns of the configuration.";
  if (matched && !answer.window_seconds) nothing = "The history of growth begins now.";
  else if (matched) {
    nothing = `No file grew in the last ${duration(answer.window_seconds)}. Biggest lists all ${count(matched, "file", "files")}.`;
  } else if (isFiltered) nothing = "No file matches the search and the filters.";
  const keyOf = (file) => JSON.stringify([file.group, file.path, file.labels]);
  showRows($("list"), chosen, keyOf, makeFile, updateFile, nothing);
  const areAllGrowing = chosen.length === files.length;
  const part = chosen.length < matched ? `${whole.format(chosen.length)} of ` : "";
  setText($("matched"), `${part}${count(matched, "file", "files")}${areAllGrowing ? "" : ", the others did not grow"}`);
  $("more").hidden = !areAllGrowing || files.length >= matched || state.limit >= MOST_ROWS;
  const known = answer.as_of_seconds - history.begins_seconds;
  const length = history.steps * history.step_seconds;
  setText(
    $("history"),
    known >= length
      ? `Growth is over the last ${Math.round(answer.window_seconds)} s; the plots show the last 15 minutes.`
      : known < 1
        ? "The history of growth begins now."
        : `The history of growth begins at ${clock(history.begins_seconds)}, ${ago(known)}.`,
  );
}

function showLive() {
  const live = $("live");
  live.className = isFailing ? "off" : isPaused ? "" : "on";
  setText(live, isFailing ? "No answer" : isPaused ? "Paused" : shown ? "Live" : "Loading");
  setAttribute(live, "title", shown ? `The numbers are from ${clock(shown.files.as_of_seconds)}` : "");
  document.querySelector("main").classList.toggle("stale", isFailing && shown !== null);
}

function showNotice(text) {
  if ($("notice").textContent !== text) $("notice").textContent = text; // it is read aloud when it changes
  $("notice").hidden = !text;
}

function showFailure(reason) {
  isFailing = true;
  const numbers = shown ? ` The numbers are from ${clock(shown.files.as_of_seconds)}.` : "";
  showNotice(`${reason}${numbers} Trying again every few seconds.`);
  showLive();
}

// -- asking -----------------------------------------------------------------------------------------------------------

async function ask(name, parameters, signal) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== ""));
  const response = await fetch(`api/v1/${name}?${query}`, { signal, cache: "no-store" });
  if (!response.ok) throw new Refusal(response.status, (await response.text()).trim());
  return response.json();
}

// Why the agent is not healthy; empty when it is.
async function askHealth(signal) {
  const response = await fetch("-/healthy", { signal, cache: "no-store" });
  return response.ok ? "" : (await response.text()).trim();
}

class Refusal extends Error {
  constructor(status, text) {
    super(status < 500 || status === 503 ? text : `The agent answers with an error (${status}).`);
    this.status = status;
  }
}

async function refresh() {
  clearTimeout(timer);
  asking?.abort();
  const own = (asking = new AbortController());
  const timeout = setTimeout(() => own.abort(), TIMEOUT_MS);
  const window = { window: state.window };
  try {
    const [files, groups, status, fault] = await Promise.all([
      ask("files", state, own.signal),
      ask("groups", window, own.signal),
      ask("status", {}, own.signal),
      askHealth(own.signal),
    ]);
    if (own !== asking) return;
    shown = { files, groups, status, fault };
    isFailing = false;
    showNotice(objection);
    show();
    showLive();
  } catch (error) {
    if (own !== asking) return; // there is a later request
    if (error.status === 400) {
      change(DEFAULTS); // the address names a group that does not exist, perhaps not any more
      objection = `${error.message}. The page shows everything instead.`;
    } else if (error instanceof Refusal) {
      showFailure(error.message);
    } else if (error instanceof TypeError || error.name === "AbortError") {
      showFailure("The agent does not answer.");
    } else {
      showFailure("The agent's answer cannot be read.");
      throw error;
    }
  } finally {
    clearTimeout(timeout);
    own.abort(); // when one of them fails the others are not needed
    if (own === asking) schedule();
  }
}

function schedule() {
  clearTimeout(timer);
  if (!isPaused && !document.hidden) timer = setTimeout(refresh, EVERY_MS);
}

// -- what the user does -----------------------------------------------------------------------------------------------

const DEFAULTS = { ...state };

function readAddress() {
  const told = new URLSearchParams(location.hash.slice(1));
  Object.assign(state, DEFAULTS);
  for (const name of ["sort", "order", "search", "group", "followed", "unread", "window"]) {
    if (told.has(name)) state[name] = told.get(name);
  }
}

function change(wanted, delayMs = 0) {
  Object.assign(state, { limit: FIRST_ROWS }, wanted);
  objection = "";
  const differing = Object.entries(state).filter(([name, value]) => name !== "limit" && value !== DEFAULTS[name]);
  const told = new URLSearchParams(differing).toString();
  history.replaceState(null, "", told ? `#${told}` : location.pathname + location.search);
  showState();
  asking?.abort();
  asking = null; // the answers would be to the choice before
  clearTimeout(timer);
  timer = setTimeout(refresh, delayMs);
}

$("views").addEventListener("click", (event) => {
  const { sort } = event.target.dataset;
  if (sort) change({ sort, order: "" });
});

$("list").tHead.addEventListener("click", (event) => {
  const sort = event.target.closest("button")?.parentElement.dataset.sort;
  if (!sort) return;
  const usual = sort === "path" ? "asc" : "desc";
  const other = usual === "asc" ? "desc" : "asc";
  change({ sort, order: sort === state.sort && !state.order ? other : "" });
});

$("search").addEventListener("input", (event) => change({ search: event.target.value }, TYPING_MS));
$("group").addEventListener("change", (event) => change({ group: event.target.value }));
$("how").addEventListener("change", (event) => change({ followed: event.target.value }));
$("unread").addEventListener("change", (event) => change({ unread: event.target.value }));
$("window").addEventListener("change", (event) => change({ window: event.target.value }));
$("tools").addEventListener("submit", (event) => event.preventDefault());
$("more").addEventListener("click", () => change({ limit: Math.min(2 * state.limit, MOST_ROWS) }));

$("all-groups").addEventListener("click", () => {
  areAllGroupsShown = true;
  show();
});

$("all-aggregates").addEventListener("click", () => {
  areAllAggregatesShown = true;
  show();
});

$("pause").addEventListener("click", (event) => {
  isPaused = !isPaused;
  event.currentTarget.setAttribute("aria-pressed", String(isPaused));
  if (isPaused) schedule();
  else refresh();
  showLive();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden || isPaused) schedule();
  else refresh();
});

addEventListener("hashchange", () => {
  readAddress();
  refresh();
});

$("view").hidden = false;
readAddress();
const isFiltered = state.search || state.group || state.followed || state.unread;
for (const details of document.querySelectorAll("section details")) {
  details.open = !NARROW.matches || (isFiltered && details.className === "filters");
}
showState();
refresh();

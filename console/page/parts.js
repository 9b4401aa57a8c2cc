// What the views are made of. Whatever comes from a platform, an app or a stranger becomes text, never markup.

const chosen = localStorage.getItem("language") ?? navigator.language;
let english = !chosen.toLowerCase().startsWith("zh");

export const isEnglish = () => english;
export const say = (chinese, inEnglish) => (english ? inEnglish : chinese);
export function speak(inEnglish) {
  english = inEnglish;
  localStorage.setItem("language", english ? "en" : "zh");
}

export const get = (id) => document.getElementById(id);

// element makes an element; its children are elements or text, and those that are nothing are left out.
export function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...there(children));
  return made;
}

// there are the children that are something.
export const there = (children) => [children].flat(Infinity).filter((child) => child !== undefined && child !== "" && child !== false && child !== null);

// visible shows the characters that would move, hide or turn text around, and cuts what is too long.
export function visible(text, limit = 300) {
  const shown = String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return shown.length > limit ? `${shown.slice(0, limit)}…` : shown;
}

// theirs is a text that others chose: it keeps its direction of writing to itself.
export const theirs = (text, limit) => (text ? element("bdi", {}, visible(text, limit)) : "");

// masked hides what may be a card's or a telephone's number in a sentence of the platform's or the app's.
export const masked = (text) => String(text ?? "").replace(/\d{7,}/g, (digits) => `${digits.slice(0, 3)}****${digits.slice(-2)}`);

export const button = (id, text, press, strong) =>
  element("button", { type: "button", id, class: strong ? "strong" : undefined, onclick: press }, text);

const opened = new Set(); // the keys of the details that are open
export const open = (key) => opened.add(key);

// fold is something to open, which stays open when the view is drawn anew. body is asked when it opens.
export function fold(key, summary, body) {
  // The browser tells of a toggle later; the view may be drawn anew before that.
  const press = () => (made.open ? opened.delete(key) : opened.add(key));
  const made = element("details", { open: opened.has(key) ? "" : false }, element("summary", { id: `fold-${encodeURIComponent(key)}`, onclick: press }, ...summary));
  const fill = () => made.childElementCount === 1 && made.append(...there(body()));
  if (made.open) fill();
  made.addEventListener("toggle", () => {
    if (!made.open) return opened.delete(key);
    opened.add(key);
    return fill();
  });
  return made;
}

// named are values under their names; those without a value, or with 0, are left out.
export const named = (...pairs) => element("dl", {}, pairs.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));

// part is a section with a heading.
export const part = (heading, ...children) => element("section", {}, element("h2", {}, heading), ...children);

export const yuan = (fen) => `¥${Math.trunc(fen / 100)}.${String(fen % 100).padStart(2, "0")}`;

const beijing = { timeZone: "Asia/Shanghai", hourCycle: "h23" };
const day = (at) => new Date(at).toLocaleDateString("sv-SE", beijing);
export const today = (back = 0) => day(Date.now() - back * 86400000);

// clock is a time in Beijing, with its day where that is not today.
export function clock(at) {
  if (!at) return say("从未", "never");
  const time = new Date(at).toLocaleTimeString("sv-SE", beijing);
  return element("time", { datetime: new Date(at).toISOString() }, day(at) === today() ? time : `${day(at)} ${time}`);
}

export function lasted(milliseconds) {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(1)} s`;
}

const svg = (tag, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};

const bars = 48; // of half an hour

// plot draws what was counted in 24 hours as bars, with the sums in words. kinds are [index, name, class].
export function plot(title, slots, field, kinds, now) {
  const sums = kinds.map(() => 0);
  const columns = Array.from({ length: bars }, () => kinds.map(() => 0));
  const width = 86400000 / bars;
  for (const slot of slots ?? []) {
    const column = Math.min(bars - 1, Math.max(0, bars - 1 - Math.floor((now - slot.at) / width)));
    kinds.forEach(([index], at) => {
      sums[at] += slot[field][index];
      columns[column][at] += slot[field][index];
    });
  }
  const highest = Math.max(1, ...columns.map((column) => column.reduce((sum, count) => sum + count, 0)));
  const words = kinds.map(([, name], at) => `${name} ${sums[at]}`);
  const drawing = svg("svg", { viewBox: `0 0 ${bars * 10} 40`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: ${words.join(", ")}` });
  columns.forEach((column, at) => {
    let top = 40;
    kinds.forEach(([, , kind], which) => {
      if (!column[which]) return;
      const height = Math.max(2, (38 * column[which]) / highest);
      top -= height;
      drawing.append(svg("rect", { x: at * 10 + 1, y: top, width: 8, height, class: `f-${kind}` }));
    });
  });
  return element("figure", {}, drawing, element("figcaption", {}, `${title}: `, ...kinds.map(([, name, kind], at) =>
    element("span", {}, element("i", { class: `key k-${kind}` }), `${name} ${sums[at]}`))));
}

// copied is a line to copy.
export function copied(id, text) {
  const line = element("pre", { tabindex: "0" }, text);
  const press = async () => {
    try {
      await navigator.clipboard.writeText(text);
      tell(say("已复制。", "Copied."));
    } catch { // no clipboard where the page does not come from this machine
      getSelection().selectAllChildren(line);
      tell(say("已选中，请用键盘复制。", "Selected: copy it with the keyboard."));
    }
  };
  return [line, button(id, say("复制", "Copy"), press)];
}

// tell says what came of something.
export function tell(text, bad) {
  get("said").className = bad ? "bad" : "";
  get("said").textContent = visible(text, 1000);
}

// ask asks once, and resolves to whether the answer is yes.
export function ask(question, yes) {
  const dialog = get("ask");
  tell("");
  get("question").textContent = visible(question, 1000);
  get("yes").textContent = yes;
  get("no").textContent = say("取消", "Cancel");
  dialog.returnValue = "";
  dialog.showModal();
  get("no").focus();
  return new Promise((resolve) => {
    get("yes").onclick = () => dialog.close("yes");
    get("no").onclick = () => dialog.close("");
    // The close of the question before may be told only now.
    dialog.onclose = () => dialog.open || resolve(dialog.returnValue === "yes");
  });
}

// api asks an admin API. What goes wrong is thrown, with the API's own words.
export async function api(path, method = "GET") {
  const answer = await fetch(path, { method, headers: { Accept: "application/json" }, cache: "no-store" });
  const text = await answer.text();
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    value = { error: text };
  }
  if (!answer.ok) throw Object.assign(new Error(value?.error || `HTTP ${answer.status}`), { status: answer.status });
  return value;
}

// act asks once, does something by an admin API, and says what came of it.
export async function act(question, yes, path, method, done) {
  if (!(await ask(question, yes))) return false;
  try {
    tell(done(await api(path, method)));
    return true;
  } catch (problem) {
    tell(`${say("没有成功：", "It did not work: ")}${problem.message}`, true);
    return false;
  }
}

export const enc = encodeURIComponent;

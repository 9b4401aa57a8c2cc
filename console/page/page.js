// The console's page: its parts, what is drawn when, and the questions every five seconds, which stop in a hidden tab.

import { clock, element, get, isEnglish, say, speak, there } from "./parts.js";
import * as inbox from "./inbox.js";
import * as orders from "./orders.js";
import * as recent from "./recent.js";

const pause = 5000;

// views are the page's parts: a name in the address, a heading, and what draws it.
const views = {
  overview: { name: () => say("总览", "Overview"), draw: () => recent.overview(), refresh: inbox.refreshCards, known: inbox.known },
  needs: {
    name: () => say("待处理", "Needs a person"), draw: () => orders.needs(again), refresh: orders.refreshNeeds, known: orders.knownNeeds,
  },
  search: { name: () => say("查找", "Search"), draw: () => orders.search(again), enter: orders.enterSearch, refresh: orders.refreshSearch, known: orders.knownSearch },
  notifies: { name: () => say("通知", "Notifies"), draw: () => recent.notifies(draw), enter: (kind) => recent.filter("notifies", kind ?? "") },
  calls: { name: () => say("调用", "Calls"), draw: () => recent.calls(draw), enter: (kind) => recent.filter("calls", kind ?? "") },
  inbox: { name: () => say("收件箱", "Inbox"), draw: () => inbox.draw(again, draw), refresh: inbox.refresh, known: inbox.known },
  order: { draw: () => orders.order(again), enter: orders.enterOrder, refresh: orders.refreshOrder, known: orders.knownOrder },
};

let current = "overview";
let timer;
let seen = 0; // when the gateway last answered
let running = false;
let wanted = false; // somebody asked while it was running
let composing = false; // a Chinese input method is at work: what it writes into must not be drawn anew

// draw makes the view anew, unless somebody is being asked something, or is writing. What has the focus keeps it.
function draw() {
  if (composing || get("ask").open) return false;
  const focused = document.activeElement;
  const within = get("main").contains(focused) && focused !== get("main");
  const { selectionStart, selectionEnd } = focused ?? {};
  get("main").replaceChildren(...there(views[current].draw()));
  if (within) {
    const same = (one) => one.textContent === focused.textContent && one.getAttribute("href") === focused.getAttribute("href");
    const again = document.getElementById(focused.id) ?? [...get("main").querySelectorAll(focused.tagName)].find(same) ?? get("main");
    again.focus({ preventScroll: true });
    if (typeof selectionStart === "number") again.setSelectionRange?.(selectionStart, selectionEnd);
  }
  return true;
}

function frame() {
  document.documentElement.lang = isEnglish() ? "en" : "zh-CN";
  document.title = say("支付网关值班台", "Payment gateway console");
  get("title").textContent = document.title;
  get("skip").textContent = say("跳到正文", "Skip to the content");
  get("language").textContent = say("English", "中文");
  get("language").lang = isEnglish() ? "zh-CN" : "en";
  get("parts").setAttribute("aria-label", say("页面", "Pages"));
  get("parts").replaceChildren(...Object.entries(views).filter(([, view]) => view.name).map(([key, view]) =>
    element("a", { id: `to-${key}`, href: `#${key}`, "aria-current": key === current ? "page" : false }, view.name())));
}

let last = ""; // what was drawn last

// look asks for what is new, and draws it if it is.
async function look(always) {
  clearTimeout(timer);
  if (running) wanted ||= always === true;
  if (document.hidden || running) return;
  running = true;
  try {
    await recent.refresh();
    await views[current].refresh?.(always === true);
    seen = Date.now();
    get("alive").className = "";
    get("alive").replaceChildren(say("更新于 ", "as of "), clock(seen));
    const { now, last: number, ...rest } = recent.store.state;
    const known = JSON.stringify([current, rest, Math.floor(now / 300000), recent.store.calls[0]?.number, recent.store.notifies[0]?.number, views[current].known?.()]);
    if ((always === true || known !== last) && draw()) last = known;
  } catch (problem) {
    get("alive").className = "bad";
    get("alive").textContent = `${say("网关没有响应：", "The gateway does not answer: ")}${problem.message}`;
  } finally {
    running = false;
    clearTimeout(timer);
    timer = setTimeout(look, wanted ? 0 : pause, wanted);
    wanted = false;
  }
}

// again asks at once: something was done, or is looked for.
const again = () => look(true);

// route shows what the address names.
async function route() {
  const [name, ...rest] = location.hash.slice(1).split("/").map((piece) => {
    try {
      return decodeURIComponent(piece);
    } catch {
      return piece;
    }
  });
  current = Object.hasOwn(views, name) ? name : "overview";
  views[current].enter?.(...rest);
  get("said").textContent = "";
  frame();
  if (recent.store.state) draw();
  await look(true);
}

get("language").addEventListener("click", () => {
  speak(!isEnglish());
  frame();
  if (recent.store.state) draw();
});
get("skip").addEventListener("click", (event) => {
  event.preventDefault();
  get("main").focus();
});
window.addEventListener("hashchange", route);
document.addEventListener("compositionstart", () => { composing = true; });
document.addEventListener("compositionend", () => {
  composing = false;
  draw();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
route();

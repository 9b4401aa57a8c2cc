// The view of the inboxes: messages, and what can be done about them.

import { act, api, ask, button, clock, element, enc, fold, masked, named, part, say, tell, theirs } from "./parts.js";
import { store } from "./recent.js";
import * as texts from "./texts.js";

const page = 100; // messages

let list = []; // the inboxes
const view = { name: "", state: "dead", search: "", typed: "", messages: [], more: false };
const shown = new Map(); // messages that were opened, by inbox and seq

const messages = (name) => `/inbox/${enc(name)}/messages`;
const one = (m) => `${messages(m.inbox)}/${m.seq}`;

// cards are the inboxes on the overview: what waits behind them for the app.
export const cards = () => list.map((inbox) => element("article", { class: "card" }, element("h3", {}, say("收件箱 ", "Inbox "), theirs(inbox.name)),
  element("p", { class: inbox.error || inbox.dead ? "bad" : inbox.pending ? "warn" : "good" }, inbox.error ? theirs(inbox.error)
    : inbox.dead ? say("有死信：多次投递，应用都没有收下。", "There are dead letters: the app did not accept them.")
      : inbox.pending ? say("有消息等应用收下。", "Messages are waiting for the app.") : say("应用已全部收下。", "The app has accepted all of them.")),
  named([say("待投递", "Pending"), String(inbox.pending)], [say("最早", "Oldest"), inbox.oldest && clock(Date.parse(inbox.oldest))],
    [say("死信", "Dead letters"), inbox.dead ? element("a", { href: "#needs" }, inbox.dead) : "0"], [say("已投递", "Delivered"), String(inbox.delivered)])));

let counted = 0;
export async function refreshCards(always) {
  if (!always && Date.now() - counted < 30000) return;
  counted = Date.now();
  list = await inboxes();
}

// from asks for messages of an inbox.
async function from(name, parameters) {
  const found = await api(`${messages(name)}?${new URLSearchParams(parameters)}`);
  return found.map((m) => ({ ...m, inbox: name }));
}

// inboxes are those of the configuration; none, where the API is not there.
async function inboxes() {
  try {
    return await api("/inbox");
  } catch (problem) {
    if (problem.status === 404) return [];
    throw problem;
  }
}

// find looks for messages by an order's number or an event's id.
export async function find(text) {
  const found = [];
  for (const inbox of await inboxes()) if (!inbox.error) found.push(...(await from(inbox.name, { search: text, limit: 50 })));
  return found;
}

// dead are the inboxes that have dead letters, with the first of them.
export async function dead() {
  const found = [];
  for (const inbox of await inboxes()) {
    if (inbox.dead > 0) found.push({ ...inbox, first: await from(inbox.name, { state: "dead", limit: 5 }) });
  }
  return found;
}

export async function refresh(always) {
  list = await inboxes();
  if (!list.some((inbox) => inbox.name === view.name)) view.name = list[0]?.name ?? "";
  const inbox = list.find((entry) => entry.name === view.name);
  const key = JSON.stringify([view.name, view.state, view.search, inbox]);
  if (!inbox || inbox.error || (!always && (view.key === key || view.messages.length > page))) return;
  const query = { limit: page };
  if (view.state) query.state = view.state;
  if (view.search) query.search = view.search;
  view.messages = await from(view.name, query);
  view.more = view.messages.length === page;
  view.key = key;
}
export const known = () => JSON.stringify([list, { ...view, typed: "" }]);

async function onward(redraw) {
  const query = { limit: page, after: view.messages.at(-1).seq };
  if (view.state) query.state = view.state;
  if (view.search) query.search = view.search;
  const next = await from(view.name, query);
  view.messages.push(...next);
  view.more = next.length === page;
  redraw();
}

// redeliver delivers a message again.
const redeliver = (m, again) => button(`redeliver-${m.inbox}-${m.seq}`, say("重新投递", "Redeliver"), async () => {
  const forced = m.state === "delivered";
  const question = forced ? say(`应用已经收下消息 ${m.seq}。仍要再投递一次？`, `The app has already accepted message ${m.seq}. Deliver it once more?`)
    : say(`立即投递消息 ${m.seq}？`, `Deliver message ${m.seq} now?`);
  if (await act(question, say("投递", "Deliver"), `${one(m)}/redeliver${forced ? "?force=1" : ""}`, "POST", (done) => say(`消息 ${done.seq} 待投递，结果见列表。`, `Message ${done.seq} is pending. The list shows the result.`))) again();
}, true);

const remove = (m, again) => button(`delete-${m.inbox}-${m.seq}`, say("删除", "Delete"), async () => {
  const forced = m.state === "pending";
  const question = forced ? say(`消息 ${m.seq} 还没有投递，删除后应用就收不到了。仍要删除？`, `Message ${m.seq} has not been delivered yet. If you delete it, the app never gets it. Delete it?`)
    : say(`删除消息 ${m.seq}？无法恢复。`, `Delete message ${m.seq}? It cannot be brought back.`);
  if (await act(question, say("删除", "Delete"), `${one(m)}${forced ? "?force=1" : ""}`, "DELETE", (done) => say(`已删除 ${done.deleted} 条。`, `${done.deleted} deleted.`))) again();
});

// content shows the stored request: masked, until it is asked for.
function content(m) {
  const place = element("div", {}, element("p", { class: "quiet" }, say("正在读取…", "Reading…")));
  const key = `${m.inbox} ${m.seq} ${m.state} ${m.attempts}`;
  const show = async (unmasked) => {
    try {
      shown.set(key, await api(`${one(m)}${unmasked ? "?show=1" : ""}`));
    } catch (problem) {
      place.replaceChildren(element("p", { class: "bad" }, theirs(problem.message)));
      return;
    }
    put();
  };
  const put = () => {
    const { answer, request } = shown.get(key);
    const unmasked = request?.body.text !== undefined || request?.body.base64 !== undefined;
    place.replaceChildren(named(
      [say("应用的返回", "The app's answer"), answer && theirs(masked(`${answer.status ?? ""} ${answer.error ?? ""} ${unmasked ? answer.body ?? "" : ""}`.trim()), 400)],
      [say("请求", "Request"), request && theirs(`${request.method} ${request.host}${request.uri}`)],
      [say("请求头", "Headers"), request && element("pre", { tabindex: "0" }, Object.entries(request.headers).map(([name, values]) => [theirs(`${name}: ${values.join(", ")}`, 1000), "\n"]))],
      [say("报文", "Body"), request && (unmasked ? element("pre", { tabindex: "0" }, theirs(request.body.text ?? request.body.base64, 20000)) : say(`${request.body.size} 字节，已遮盖`, `${request.body.size} bytes, masked`))],
    ));
    if (!request) place.append(element("p", { class: "quiet" }, say("请求内容已清除。", "The request is not kept any more.")));
    else if (!unmasked) {
      place.append(button(`show-${m.inbox}-${m.seq}`, say("显示全部内容", "Show all of it"), async () => {
        if (await ask(say("其中可能有买家信息，查看会记入日志。确定显示？", "It may contain a buyer's data. Showing it is logged. Show it?"), say("显示", "Show"))) show(true);
      }));
    }
  };
  if (shown.has(key)) put();
  else show(false);
  return place;
}

// message is a message to open.
export function message(m, again, label) {
  return fold(`message ${m.inbox} ${m.seq}`, [
    clock(Date.parse(m.received)), label ? element("span", {}, label) : "", element("span", { class: { dead: "bad", pending: "warn" }[m.state] ?? "good" }, texts.state(m.state)), theirs(m.subject || m.id, 80),
    element("span", { class: "quiet" }, `#${m.seq}`), m.answer?.error && element("span", { class: "quiet" }, theirs(masked(m.answer.error), 80)),
  ], () => [named(
    [say("事件 id", "Id"), theirs(m.id)], [say("订单", "Order"), m.subject && element("a", { href: `#search/${enc(m.subject)}` }, theirs(m.subject, 80))], [say("失败次数", "Failed deliveries"), m.attempts],
    [say("下次投递", "Next delivery"), m.due && clock(Date.parse(m.due))], [say("结束于", "Ended at"), m.settled && clock(Date.parse(m.settled))],
  ), element("p", { class: "buttons" }, redeliver(m, again), remove(m, again)), content(m)]);
}

// all does something about all dead letters of an inbox. Their count is asked for first.
async function all(name, what, again) {
  try {
    const { dead: count } = await api(`/inbox/${enc(name)}`);
    if (!count) return tell(say("没有死信了。", "There are no dead letters any more."));
    if (what === "delete") {
      if (!(await ask(say(`删除 ${name} 的全部 ${count} 条死信？无法恢复。`, `Delete all ${count} dead letters of ${name}? They cannot be brought back.`), say(`删除 ${count} 条`, `Delete ${count}`)))) return undefined;
      const done = await api(`${messages(name)}?state=dead`, "DELETE");
      tell(say(`已删除 ${done.deleted} 条。`, `${done.deleted} deleted.`));
    } else {
      if (!(await ask(say(`重新投递 ${name} 的全部 ${count} 条死信？`, `Deliver all ${count} dead letters of ${name} again?`), say(`投递 ${count} 条`, `Deliver ${count}`)))) return undefined;
      const done = await revive(name, count);
      tell(say(`${done} 条死信待投递，结果见列表。`, `${done} dead letters are pending again. The list shows the results.`));
    }
  } catch (problem) {
    tell(`${say("没有全部成功：", "Not all of it worked: ")}${problem.message}`, true);
  }
  return again();
}

// revive makes at most so many dead letters pending again; those that die again meanwhile are left.
async function revive(name, count) {
  let done = 0;
  for (let after = 0; done < count;) {
    const some = await from(name, { state: "dead", limit: Math.min(page, count - done), after });
    if (!some.length) break;
    for (const m of some) {
      await api(`${one(m)}/redeliver`, "POST");
      done += 1;
      if (done % 20 === 0) tell(say(`已处理 ${done}/${count} …`, `${done} of ${count} …`));
    }
    after = some.at(-1).seq;
  }
  return done;
}

const bulk = (inbox, again) => inbox.dead > 0 && element("p", { class: "buttons" },
  button(`redeliver-all-${inbox.name}`, say(`重新投递全部死信（${inbox.dead}）`, `Redeliver all dead letters (${inbox.dead})`), () => all(inbox.name, "redeliver", again)),
  button(`delete-all-${inbox.name}`, say(`删除全部死信（${inbox.dead}）`, `Delete all dead letters (${inbox.dead})`), () => all(inbox.name, "delete", again)));

// deadLetters is the part of what needs a person; nothing where there are none.
export const deadLetters = (found, again) => found.length > 0 && found.map((inbox) => element("div", {},
  element("p", {}, say(`收件箱 ${inbox.name} 有 ${inbox.dead} 条死信：多次投递，应用都没有收下。修好应用，再重新投递。`, `Dead letters in the inbox ${inbox.name}: ${inbox.dead}. The app accepted none of the attempts. Repair the app, then redeliver.`)),
  inbox.first.map((m) => message(m, again)), bulk(inbox, again)));

// switchOn are the directives of an inbox behind the platforms' notifies.
function switchOn() {
  const names = store.state.platforms.map((platform) => platform.name);
  const notifies = names.map((name, at) => `${name}_notify /notify${at ? `/${name}` : ""}\n`).join("");
  return `${notifies}inbox /notify${names.length > 1 ? "*" : ""} {\n\tdeliver {\n\t\treverse_proxy 127.0.0.1:9000\n\t}\n}`;
}

export function draw(again, redraw) {
  if (!list.length) {
    return [part(say("收件箱", "Inbox"), element("p", {}, say("没有收件箱。加上之后，应用停机时通知也不会丢：", "There is no inbox. With one, no notification is lost while the app is down:")),
      element("pre", { tabindex: "0" }, switchOn()))];
  }
  const inbox = list.find((entry) => entry.name === view.name) ?? list[0];
  const change = (field) => (event) => {
    view[field] = event.target.value.trim();
    again();
  };
  const select = (id, label, field, options) => element("label", {}, label, element("select", { id, onchange: change(field) },
    options.map(([value, text]) => element("option", { value, selected: value === view[field] ? "" : false }, text))));
  return [part(say("收件箱", "Inbox"),
    inbox.error ? element("p", { class: "bad" }, theirs(inbox.error)) : element("p", { id: "counts" }, say(`待投递 ${inbox.pending} · 死信 ${inbox.dead} · 已投递 ${inbox.delivered}`, `pending ${inbox.pending} · dead ${inbox.dead} · delivered ${inbox.delivered}`),
      inbox.oldest && [say(" · 最早的待投递 ", " · oldest pending "), clock(Date.parse(inbox.oldest))]),
    element("div", { class: "tools" },
      list.length > 1 && select("inbox-name", say("收件箱", "Inbox"), "name", list.map((entry) => [entry.name, entry.name])),
      select("inbox-state", say("状态", "State"), "state", [["", say("全部", "all")], ...["dead", "pending", "delivered"].map((word) => [word, texts.state(word)])]),
      element("label", {}, say("单号或事件 id", "Order or id"), element("input", { id: "inbox-search", type: "search", value: view.typed, maxlength: 128, oninput: (event) => { view.typed = event.target.value; }, onchange: change("search") }))),
    bulk(inbox, again),
    view.messages.length ? view.messages.map((m) => message(m, again)) : element("p", { class: "quiet" }, say("没有。", "None.")),
    view.more && element("p", { class: "buttons" }, button("more", say("更多", "More"), () => onward(redraw))))];
}

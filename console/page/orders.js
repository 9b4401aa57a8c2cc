// The views of orders: what needs a person, the search, and one order's timeline.

import { act, api, button, clock, element, enc, masked, named, part, say, theirs, today, yuan } from "./parts.js";
import * as inbox from "./inbox.js";
import * as recent from "./recent.js";
import * as texts from "./texts.js";

const watched = () => recent.store.state.platforms.filter((platform) => platform.watch).map((platform) => platform.name);
const unwatched = () => recent.store.state.platforms.filter((platform) => !platform.watch).map((platform) => platform.name);
const json = (value) => JSON.stringify(value);

// noWatch says how to switch the watch on for those platforms that have none.
const noWatch = (names = unwatched()) => names.length > 0 && element("div", { class: "card" },
  element("p", {}, say(`没有启用 watch（${names.join("、")}），不跟踪订单和退款。在全局选项里加上：`, `There is no watch for ${names.join(" and ")}: orders and refunds are not followed. Switch it on in the global options:`)),
  element("pre", { tabindex: "0" }, `{\n${names.map((name) => `\t${name} {\n\t\t${recent.accountWord(name)} …\n\t\twatch\n\t}\n`).join("")}}`));

const path = (o) => `/${enc(o.platform)}/orders/${enc(o.merchant)}/${enc(o.order)}`;

// The buttons of an order.
const queryNow = (o, again, id) => button(`query-${id}`, say("立即查询", "Query now"), async () => {
  if (await act(say(`向平台查询订单 ${o.order}？`, `Query the order ${o.order} at the platform?`), say("查询", "Query"), `${path(o)}/query`, "POST",
    (now) => say(`已查询，订单现在的状态：${texts.state(now.state)}。`, `Queried. The order is now: ${texts.state(now.state)}.`))) again();
});
const tellAgain = (o, again, id) => button(`resend-${id}`, say("重新通知应用", "Notify the app again"), async () => {
  if (await act(say(`查询订单 ${o.order}，并以相同的事件 id 重新通知应用？`, `Query the order ${o.order} and notify the app again, with the same event ids?`), say("通知", "Notify"),
    `${path(o)}/resend`, "POST", () => say("已查询。如果已有最终结果，事件已放入收件箱，等待投递。", "Queried. If the result is final, the event is in the inbox, which delivers it."))) again();
});

const link = (o) => recent.orderLink(o.platform, o.merchant, o.order);

// --- What needs a person.

const every = 60000; // the lists of the watch read all orders, so they are asked for once a minute
let needed = { at: 0 };

export async function refreshNeeds(always) {
  const fresh = { at: Date.now(), orders: [], dead: [], problems: [] };
  if (!always && fresh.at - needed.at < every) return;
  for (const platform of watched()) {
    const add = (list, kind) => fresh.orders.push(...list.map((o) => ({ ...o, platform, kind })));
    const list = (state) => api(`/${platform}/orders?state=${state}&limit=100`);
    try {
      add(await list("stuck"), "stuck");
      add(await list("unresolved"), "unresolved");
      add((await list("sent")).filter((o) => o.outcome && !o.flight), "unresolved");
      for (const back of [0, 1]) {
        const report = await api(`/${platform}/reconcile?day=${today(back)}`);
        add((report.records ?? []).filter((r) => ["late_paid", "amount_differs", "app_not_told"].includes(r.verdict)), "record");
      }
    } catch (problem) {
      fresh.problems.push(`${platform}: ${problem.message}`);
    }
  }
  try {
    fresh.dead = await inbox.dead();
  } catch (problem) {
    fresh.problems.push(problem.message);
  }
  const seen = new Set();
  fresh.orders = fresh.orders.filter((o) => {
    const key = json([o.platform, o.merchant, o.order, o.verdict ?? "open"]);
    return !seen.has(key) && seen.add(key);
  });
  needed = fresh;
}
export const knownNeeds = () => json({ ...needed, at: 0 });

const wanted = {
  stuck: () => [say("卡住", "Stuck"), say("连查多日仍没有最终结果：请联系平台核实，再查询一次。", "Days of queries gave no final result: ask the platform's support, then query once more.")],
  unresolved: () => [say("结果未知", "Unresolved"), say("不要换单号重试。立即查询，或等待自动查询。", "Do not repeat it with another number. Query it now, or wait for the next query.")],
  late_paid: () => [say("关闭后付款", "Paid late"), say("平台返回过已关闭，买家之后又付了款：核对后发货或退款。", "The platform reported it as closed, and then the buyer paid: deliver, or refund.")],
  amount_differs: () => [say("与下单不符", "Differs from the order"), say("金额或商户号与下单时不符：先核对，不要发货。", "The amount or the mid differs from the order: compare before you deliver.")],
  app_not_told: () => [say("未通知到应用", "The app was not notified"), say("已付款，但应用没有收下：修好应用后重新通知。", "It is paid, but the app has not accepted it: repair the app, then notify it again.")],
};

function need(o, at, again) {
  const [what, sentence] = wanted[o.verdict ?? o.kind]();
  const open = (o.calls ?? []).filter((c) => c.state === "unresolved" || c.state === "stuck");
  return element("li", {}, element("strong", { class: o.kind === "record" ? "warn" : "bad" }, what), " ", link(o), " ", element("span", { class: "quiet" }, theirs(o.merchant)),
    open.map((c) => [" ", element("span", {}, `${texts.callKind(c.kind)} `, theirs(c.number), " ", c.amount ? yuan(c.amount) : "")]),
    o.verdict ? [" ", o.paid ? yuan(o.paid) : ""] : "", element("p", {}, sentence),
    element("p", { class: "buttons" }, queryNow(o, again, `need-${at}`), (o.verdict) && tellAgain(o, again, `need-${at}`)));
}

export function needs(again) {
  const { notifies, state } = recent.store;
  const refused = Map.groupBy(notifies.filter((n) => n.result === "rejected" && n.at > state.now - 86400000), (n) => json([n.platform, n.account ?? "", n.reason]));
  const none = () => element("p", { class: "good" }, say("没有。", "None."));
  const orders = needed.orders ?? [];
  return [
    part(say("待处理", "Needs a person"), element("p", { class: "quiet" }, say("订单每分钟更新一次。付款只看今天和昨天（北京时间）。", "Orders are read once a minute. Payments are those of today and yesterday (Beijing time).")),
      element("p", { class: "buttons" }, button("look-again", say("立即更新", "Refresh"), again)), (needed.problems ?? []).map((text) => element("p", { class: "bad" }, theirs(text)))),
    part(`${say("订单与退款", "Orders and refunds")} (${orders.length})`, orders.length ? element("ul", { class: "plain" }, orders.map((o, at) => need(o, at, again))) : (watched().length || !unwatched().length) && none(), noWatch()),
    part(say("死信", "Dead letters"), inbox.deadLetters(needed.dead ?? [], again) || none()),
    part(say("被拒绝的通知（24 小时）", "Rejected notifies (24 hours)"), refused.size ? element("ul", { class: "plain" }, [...refused.values()].map((group) => {
      const [meaning, remedy] = texts.explained(group[0].reason) ?? [group[0].reason, ""];
      return element("li", {}, element("strong", { class: "warn" }, `${meaning} × ${group.length}`), " ", element("span", { class: "quiet" }, recent.accountName(group[0])), " ", say("最近 ", "last at "), clock(group[0].at),
        element("p", {}, remedy), recent.notify(group[0]));
    })) : none()),
  ];
}

// --- The search.

let looked = { text: "" };
let typed = ""; // and not looked for yet

export function enterSearch(text) {
  if (text === undefined || text === looked.text) return;
  looked = { text };
  typed = text;
}
export async function refreshSearch(always) {
  const { text } = looked;
  if (!text || (looked.found && !always)) return;
  const found = { orders: [], messages: [], problems: [] };
  const some = async (what) => { try { await what(); } catch (problem) { found.problems.push(problem.message); } };
  for (const platform of watched()) {
    await some(async () => { found.orders.push(...(await api(`/${platform}/orders?limit=50&search=${enc(text)}`)).map((o) => ({ ...o, platform }))); });
  }
  await some(async () => { found.calls = await api(`calls?limit=50&search=${enc(text)}`); });
  await some(async () => { found.notifies = await api(`notifies?limit=50&search=${enc(text)}`); });
  await some(async () => { found.messages = await inbox.find(text); });
  if (looked.text === text) looked.found = found;
}
export const knownSearch = () => json(looked);

export function search(again) {
  const { found } = looked;
  const go = (event) => {
    event.preventDefault();
    looked = { text: typed.trim() };
    if (location.hash === `#search/${enc(looked.text)}`) again();
    else location.hash = `search/${enc(looked.text)}`;
  };
  const section = (heading, list, draw) => list?.length > 0 && part(`${heading} (${list.length})`, draw(list));
  return [part(say("查找", "Search"),
    element("form", { class: "tools", role: "search", onsubmit: go },
      element("label", { for: "number" }, say("单号", "Number")),
      element("input", { id: "number", type: "search", value: typed, maxlength: 64, oninput: (event) => { typed = event.target.value; } }), element("button", { id: "find", class: "strong" }, say("查找", "Search"))),
    element("p", { class: "quiet" }, say("merOrderId、refundOrderId、billNo、client_sn、退款序列号，或平台、渠道的单号；也可以只写一部分。", "merOrderId, refundOrderId, billNo, client_sn, refund_request_no, or the number at the platform or the channel. A part of it is enough."))),
  found?.problems.map((problem) => element("p", { class: "bad" }, theirs(problem))),
  found && section(say("订单", "Orders"), found.orders, (list) => element("ul", { class: "plain" }, list.map((o) => element("li", {}, link(o), " ", texts.state(o.state), " ", o.amount ? yuan(o.amount) : "", " ", element("span", { class: "quiet" }, `${o.merchant} (${o.platform})`))))),
  found && section(say("调用", "Calls"), found.calls, (list) => list.map(recent.call)),
  found && section(say("通知", "Notifies"), found.notifies, (list) => list.map(recent.notify)),
  found && section(say("收件箱", "Inbox"), found.messages, (list) => list.map((m) => inbox.message(m, again))),
  found && !found.orders.length && !found.calls?.length && !found.notifies?.length && !found.messages.length && element("p", { id: "nothing" }, say("没有找到。", "Nothing was found.")),
  noWatch()];
}

// --- One order.

let one = {};

export function enterOrder(platform, merchant, order) {
  if (one.platform !== platform || one.merchant !== merchant || one.order !== order) one = { platform, merchant, order };
}
export async function refreshOrder() {
  const { platform, merchant, order } = one;
  const found = {};
  const some = async (name, what) => { try { found[name] = await what(); } catch (problem) { if (problem.status !== 404) found.problem = problem.message; } };
  if (watched().includes(platform)) await some("row", () => api(path(one)));
  const mine = (entry) => entry.platform === platform && entry.account === merchant && entry.order === order;
  await some("calls", async () => (await api(`calls?search=${enc(order)}`)).filter(mine));
  await some("notifies", async () => (await api(`notifies?search=${enc(order)}`)).filter(mine));
  await some("messages", async () => (await inbox.find(order)).filter((m) => m.subject === order));
  if (one.order === order) one.found = found;
}
export const knownOrder = () => json(one);

// events are what happened to an order, in the order of time: [when, what, class, more].
function events({ row, calls, notifies, messages }, again) {
  const all = [];
  const add = (at, what, kind, more) => at && all.push([at, what, kind, more]);
  for (const line of row?.lines ?? []) {
    add(line.at, [texts.line(line.what), line.about && [" ", theirs(line.about)], line.word && [" ", line.what === "told" ? texts.type(line.word) : theirs(masked(line.word))], line.state && [" → ", element("strong", {}, texts.state(line.state))],
      line.times > 1 && ` × ${line.times}`], line.state === "stuck" || line.state === "unresolved" ? "bad" : "");
  }
  for (const told of row?.told ?? []) {
    add(told.taken, [say("应用（或收件箱）收下：", "accepted by the app, or the inbox: "), texts.type(told.type), " ", element("code", {}, told.id)], "good");
    if (!told.taken) add(told.at, [say("应用还没有收下：", "not accepted by the app yet: "), texts.type(told.type)], "bad");
  }
  for (const c of calls ?? []) add(c.at, "", "", recent.call(c, c.outcome === "signed" ? say("链接", "link") : say("调用结束", "call ended")));
  for (const n of notifies ?? []) add(n.at, "", "", recent.notify(n, say("通知", "notify")));
  for (const m of messages ?? []) {
    add(Date.parse(m.received), "", "", inbox.message(m, again, say("放入收件箱", "into the inbox")));
    add(m.settled && Date.parse(m.settled), [say("收件箱：", "inbox: "), texts.state(m.state)], m.state === "dead" ? "bad" : "good");
    add(m.due && Date.parse(m.due), [say("收件箱下次投递", "next delivery by the inbox")], "quiet");
  }
  add(row?.next, say("下次查询", "next query"), "quiet");
  for (const c of row?.calls ?? []) add(c.next, [say("下次查询 ", "next query of "), theirs(c.number)], "quiet");
  return all.sort((a, b) => a[0] - b[0]);
}

export function order(again) {
  const { found, order: number, merchant, platform } = one;
  const heading = [say("订单 ", "Order "), theirs(number)];
  if (!found) return [part(heading, element("p", {}, say("正在查找…", "Searching…")))];
  const { row } = found;
  const unclear = [...new Set([row?.code, ...(row?.calls ?? []).map((c) => c.code), ...(found.calls ?? []).map((c) => c.code)])].filter((code) => !texts.fine(code));
  return [part(heading,
    found.problem && element("p", { class: "bad" }, theirs(found.problem)),
    named([say("商户", "Merchant"), theirs(`${merchant} (${platform})`)],
      [say("状态", "State"), row && element("strong", { id: "order-state" }, texts.state(row.state))], [say("下单金额", "Ordered"), row?.amount && yuan(row.amount)], [say("已付", "Paid"), row?.paid && yuan(row.paid)],
      [say("注意", "Note"), [row?.late && wanted.late_paid()[0], row?.differs && wanted.amount_differs()[0]].filter(Boolean).join(", ")], ["mid", theirs(row?.mid)]),
    (row?.calls ?? []).length > 0 && element("ul", { class: "plain" }, row.calls.map((c) => element("li", {}, `${texts.callKind(c.kind)} `, theirs(c.number), " ", c.amount ? yuan(c.amount) : "", " ", element("strong", {}, texts.state(c.state)), " ", c.code === "SUCCESS" ? "" : c.code))),
    row && element("p", { class: "buttons" }, queryNow({ platform, merchant, order: number }, again, "order"), tellAgain({ platform, merchant, order: number }, again, "order")),
    !row && watched().includes(platform) && element("p", {}, say("watch 没有跟踪这笔订单。", "The watch has no record of this order.")),
    noWatch(unwatched().filter((name) => name === platform))),
  unclear.length > 0 && part(say("原因和应对措施", "Codes: cause and remedy"), unclear.map((code) => element("div", {}, element("code", {}, code), recent.advice(platform, code)))),
  part(say("时间线", "Timeline"), element("ol", { class: "timeline" }, events(found, again).map(([at, what, kind, more]) => element("li", { class: kind || undefined }, more ?? [clock(at), " ", what])))),
  ];
}

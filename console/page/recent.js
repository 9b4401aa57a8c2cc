// The views of what lately happened: overview, calls, notifies.

import * as inbox from "./inbox.js";
import { api, clock, copied, element, enc, fold, isEnglish, lasted, masked, named, part, plot, say, theirs } from "./parts.js";
import * as texts from "./texts.js";

const language = () => (isEnglish() ? "en" : "zh");

// store has what the page knows. The lists have the newest first.
export const store = { state: undefined, calls: [], notifies: [] };

const known = new Map(); // what was asked for once, by its address
const kept = 1250; // of each list

// refresh asks for what is new.
export async function refresh() {
  const { calls = [], notifies = [], ...state } = await api(`state?after=${store.state?.last ?? 0}`);
  if (store.state && store.state.since !== state.since) { // another process, which counts from 1
    Object.assign(store, { state: undefined, calls: [], notifies: [] });
    return refresh();
  }
  const joined = (fresh, known) => [...fresh.filter((entry) => !known.length || entry.number > known[0].number), ...known].slice(0, kept);
  Object.assign(store, { state, calls: joined(calls, store.calls), notifies: joined(notifies, store.notifies) });
  return undefined;
}

const sum = (slots, field, index) => (slots ?? []).reduce((all, slot) => all + slot[field][index], 0);

export const accountName = (entry) => entry.account || entry.name || say("（未识别商户）", "(none)");
export const accountWord = (platform) => (platform === "shouqianba" ? "terminal" : "merchant");
export const orderLink = (platform, account, order) => (platform && account
  ? element("a", { href: `#order/${enc(platform)}/${enc(account)}/${enc(order)}` }, theirs(order, 80)) : theirs(order, 80));

function takes(account) {
  if (!account.last_taken && !account.last_failed) return element("p", { class: "quiet" }, say("还没有通知交给应用。", "No notification has been handed to the app yet."));
  if ((account.last_taken ?? 0) >= (account.last_failed ?? 0)) {
    return element("p", { class: "good" }, say("通知正常收下，最近 ", "Notifies are taken, last at "), clock(account.last_taken));
  }
  const [meaning, remedy] = texts.explained(account.failure) ?? [account.failure, ""];
  return element("p", { class: "bad" }, say("应用没有收下通知（", "The app does not accept notifications ("), clock(account.last_failed), `): ${meaning}. ${remedy}`);
}

function card(account, now) {
  const calls = texts.outcomeKinds();
  const notifies = texts.resultKinds();
  const skew = account.skew;
  return element("article", { class: "card" },
    element("h3", {}, account.name ? theirs(account.name) : say("（被拒绝，未识别商户）", "(refused, no merchant)"), " ", element("span", { class: "quiet" }, account.platform)),
    account.name && takes(account),
    named(
      [say("最近通知", "Last notify"), account.name && clock(account.last_notify)],
      [say("时钟偏差", "Clock skew"), skew !== undefined && element("span", { class: Math.abs(skew) > 60 ? "bad" : "" },
        `${skew} s${Math.abs(skew) > 60 ? say("：请校时（NTP），否则平台会拒绝调用", ": synchronize this clock (NTP), or the platform refuses calls") : ""}`)],
      [say("平台返回", "Platform's answers"), account.answers ? `p50 ${lasted(account.p50)}, p99 ${lasted(account.p99)} (${account.answers})` : ""],
    ),
    plot(say("调用", "Calls"), account.slots, "calls", calls, now),
    plot(say("通知", "Notifies"), account.slots, "notifies", notifies, now),
  );
}

export function overview() {
  const { accounts, now, since } = store.state;
  const shown = accounts.filter((account) => account.name || account.slots);
  const unknown = shown.reduce((all, account) => all + sum(account.slots, "calls", 2), 0);
  const failed = shown.reduce((all, account) => all + sum(account.slots, "notifies", 2), 0);
  const rejected = shown.reduce((all, account) => all + sum(account.slots, "notifies", 3), 0);
  const worth = [
    unknown && element("a", { href: "#calls/unknown" }, say(`结果未知的调用 ${unknown}`, `calls of unknown outcome: ${unknown}`)),
    failed && element("a", { href: "#notifies/failed" }, say(`应用未收下的通知 ${failed}`, `notifies that the app did not accept: ${failed}`)),
    rejected && element("a", { href: "#notifies/rejected" }, say(`被拒绝的通知 ${rejected}`, `rejected notifies: ${rejected}`)),
  ].filter(Boolean);
  return [part(say("总览", "Overview"),
    element("p", { class: "quiet" }, say("最近 24 小时。", "The last 24 hours."), now - since < 86400000 && [say("从 ", " Counted since "), clock(since), say(" 开始统计（Caddy 启动时）。", ", when Caddy started.")]),
    element("p", {}, worth.length ? worth.flatMap((link, at) => (at ? [" · ", link] : [link])) : element("span", { class: "good" }, say("调用和通知都正常。", "All calls and notifies are normal."))),
    shown.length ? element("div", { class: "cards" }, shown.map((account) => card(account, now)), inbox.cards())
      : element("p", {}, say("还没有配置商户。", "No merchant is configured yet.")))];
}

// advice says what a call's code means. The platform's own are asked for once.
export function advice(platform, code) {
  const place = element("p", {});
  const show = ([meaning, remedy]) => place.append(`${meaning}${meaning && remedy ? " — " : ""}${remedy}`);
  const own = texts.explained(code);
  if (own) show(own);
  else if (!texts.fine(code)) {
    const path = `codes/${enc(platform)}/${enc(code)}?lang=${language()}`;
    if (!known.has(path)) known.set(path, api(path).catch(() => ({ cause: "", remedy: "" })));
    known.get(path).then((said) => show([said.cause, said.remedy]));
  }
  return place;
}

export function call(c, label) {
  const outcome = texts.outcome(c.outcome);
  return fold(`call ${c.number}`, [
    clock(c.at), label ? element("span", {}, label) : "", element("span", { class: outcome.kind }, outcome.text), element("code", {}, theirs(c.path, 80)), theirs(c.order, 80),
    element("span", { class: "quiet" }, c.code === "other" ? "" : c.code),
  ], () => [named(
    [say("商户", "Merchant"), `${accountName(c)} (${c.platform})`], [say("订单", "Order"), c.order && orderLink(c.platform, c.account, c.order)],
    [say("退款单号", "Refund"), theirs(c.refund)], [say("结果", "Outcome"), `${outcome.text} (${c.outcome})`],
    [say("错误码", "Code"), c.code], [say("平台的错误信息", "The platform's message"), theirs(masked(c.words))], [say("原因", "Reason"), c.reason],
    [say("用时", "Took"), c.sent ? lasted(c.took) : ""],
  ), c.outcome === "signed" ? element("p", {}, say("买家打开链接后才会下单。是否付款以查单或通知为准。", "The order begins when the buyer opens the link. A query or a notification says whether it is paid."))
    : advice(c.platform, c.code)]);
}

// explanation asks the doctor about a refused notify.
function explanation(n) {
  const place = element("div", {});
  const platform = store.state.platforms.find((one) => one.name === n.platform);
  const capture = `curl -s ${location.origin}/gateway/notifies/${n.number}/capture | caddy ${n.platform} verify --config /etc/caddy/Caddyfile`
    + ` --${accountWord(n.platform)} ${n.account}`;
  const line = () => [element("p", {}, say("在网关所在的机器上运行，可以看到全部内容：", "To see all of it, run this on the gateway's machine:")), ...copied(`copy-${n.number}`, capture)];
  if (!platform?.explains) return element("div", {}, ...line());
  const asked = `notifies/${n.number}/explain?lang=${language()}`;
  if (!known.has(asked)) known.set(asked, api(asked));
  known.get(asked).then((said) => place.append(element("pre", { tabindex: "0" }, theirs(said.text, 20000)), ...line()),
    (problem) => place.append(element("p", { class: "quiet" }, problem.message)));
  return place;
}

export function notify(n, label) {
  const result = texts.result(n.result);
  const [meaning, remedy] = texts.explained(n.reason) ?? [n.reason, ""];
  return fold(`notify ${n.number}`, [
    clock(n.at), label ? element("span", {}, label) : "", element("span", { class: result.kind }, result.text), n.type ? element("span", {}, texts.type(n.type)) : "", theirs(n.order, 80), element("span", { class: "quiet" }, meaning ?? ""),
  ], () => [named(
    [say("商户", "Merchant"), `${accountName(n)} (${n.platform})`],
    [n.type ? say("订单", "Order") : say("报文里的订单（未验证）", "Claimed order (not verified)"), n.order && (n.type ? orderLink(n.platform, n.account, n.order) : theirs(n.order))],
    [say("事件", "Event"), n.type && element("code", {}, n.type)], [say("事件 id", "Event id"), n.id && element("code", {}, n.id)],
    [say("平台单号", "Platform's number"), n.trade && theirs(n.trade)], [say("渠道单号", "Channel's number"), n.channel && theirs(n.channel)],
    [say("原因", "Reason"), n.reason && `${meaning} (${n.reason})`], [say("怎么办", "What to do"), remedy],
    [say("应用返回", "The app answered"), n.app_status], [say("返回给平台", "Replied to the platform"), n.status], [say("来自", "From"), theirs(n.remote)],
  ), n.explained && explanation(n)]);
}

const filters = { calls: { word: "", kind: "" }, notifies: { word: "", kind: "" } };
export const filter = (list, kind) => { filters[list].kind = kind; };

// list shows calls or notifies, those of a kind and with a word only.
function list(name, heading, all, one, kinds, kindOf, redraw) {
  const chosen = filters[name];
  const fits = (entry) => (!chosen.kind || kindOf(entry) === chosen.kind)
    && (!chosen.word || [entry.order, entry.refund, entry.id, entry.trade, entry.channel, entry.account, entry.code, entry.reason, entry.path, entry.type].some((text) => text?.includes(chosen.word)));
  const found = all.filter(fits);
  return [part(`${heading} (${found.length}/${all.length})`,
    element("div", { class: "tools" },
      element("label", {}, say("筛选", "Filter"), element("input", { id: `${name}-word`, type: "search", value: chosen.word, oninput: (event) => { chosen.word = event.target.value.trim(); if (!event.isComposing) redraw(); } })),
      element("label", {}, say("结果", "Result"), element("select", { id: `${name}-kind`, onchange: (event) => { chosen.kind = event.target.value; redraw(); } },
        element("option", { value: "" }, say("全部", "all")), kinds.map(([value, text]) => element("option", { value, selected: chosen.kind === value ? "" : false }, text))))),
    found.length ? found.slice(0, 200).map(one) : element("p", { class: "quiet" }, say("没有。", "None.")),
    found.length > 200 && element("p", { class: "quiet" }, say("只显示前 200 条，请筛选。", "The first 200 are shown; filter for others.")))];
}

export const calls = (redraw) => list("calls", say("最近的调用", "The last calls"), store.calls, call,
  ["answered", "not_sent", "unknown", "signed"].map((word) => [word, texts.outcome(word).text]), (c) => c.outcome, redraw);
export const notifies = (redraw) => list("notifies", say("最近的通知", "The last notifies"), store.notifies, notify,
  ["taken", "repeated", "failed", "rejected", "observed"].map((word) => [word, texts.result(word).text]), (n) => n.result, redraw);

"use strict";

// The sandbox's page. Whatever comes from an order, a call or an answer becomes text, never markup.

const english = navigator.language.toLowerCase().startsWith("en");
const say = (chinese, inEnglish) => (english ? inEnglish : chinese);

const statuses = {
  NEW_ORDER: "新订单", WAIT_BUYER_PAY: "等待付款", TRADE_SUCCESS: "已付款", TRADE_REFUND: "有退款", TRADE_CLOSED: "已关闭",
  CREATED: "已创建", PAID: "已付款", PAY_CANCELED: "支付已取消", PAY_ERROR: "支付结果未知", REFUNDED: "已全额退款",
  PARTIAL_REFUNDED: "部分退款", REFUND_ERROR: "退款结果未知", CANCELED: "已撤单", CANCEL_ERROR: "撤单结果未知",
  SUCCESS: "成功", FAIL: "失败", PROCESSING: "处理中", UNKNOWN: "未知",
};
const kinds = { payment: "付款", refund: "退款", bill: "账单", deduction: "代扣", guarantee: "担保" };

// What can be sent of a notify. The platform says which of them it has.
const variants = {
  genuine: ["再发一次", "Send again"], duplicate: ["原样重发", "Send twice"], late: ["迟到（昨天的）", "Late"],
  reordered: ["参数倒序", "Reorder"], json: ["JSON 格式", "As JSON"], gbk: ["GBK 编码", "In GBK"],
  tampered: ["篡改金额", "Forge: amount"], recut: ["重新切分", "Forge: cut elsewhere"], unsigned: ["去掉签名", "Forge: unsigned"],
  "other-key": ["用别的密钥", "Forge: other key"], "foreign-mid": ["别家商户的", "Another merchant's"],
};

// The switches, each with the fault that it sets.
const switches = [
  [{ kind: "no-notify" }, "通知永远不发", "Notifies are never sent"],
  [{ kind: "cut-executed" }, "已执行，返回丢失", "Executed, and the answer is lost"],
  [{ kind: "refuse-executed" }, "已执行，却返回失败", "Executed, but answered as a failure"],
  [{ kind: "processing", queries: 3 }, "退款处理中，3 次查询后成功", "Refunds stay open for 3 queries, then succeed"],
  [{ kind: "no-order", for: "1m" }, "一分钟内查不到订单和退款", "Queries know no order or refund of the last minute"],
  [{ kind: "other-order" }, "查询返回别的订单的数据", "Queries answer with another order's data"],
  [{ kind: "hang" }, "不返回，也不执行", "No answer, not executed"],
  [{ kind: "slow", for: "5s" }, "5 秒后才返回", "Answers come after 5 s"],
  [{ kind: "server-error" }, "返回 500", "Answers are 500"],
  [{ kind: "down" }, "平台停机", "The platform is down"],
];

const get = (id) => document.getElementById(id);
const opened = new Set(); // the keys of the details that are open
const amounts = new Map(); // what was typed as a refund's amount, by order
let view, shown, timer;

// element makes an element; its children are elements or text.
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== ""));
  return made;
}

// fold is something to open, which stays open when the page is drawn anew.
function fold(key, summary, body) {
  const made = element("details", { open: opened.has(key) ? "" : false }, element("summary", {}, ...summary));
  const fill = () => made.childElementCount === 1 && made.append(...body());
  if (made.open) fill();
  made.addEventListener("toggle", () => {
    if (!made.open) return opened.delete(key);
    opened.add(key);
    fill();
    if (!made.isConnected) draw(); // it was drawn anew between the click and this
  });
  return made;
}

// named are pieces of text under their names; those without text are left out.
function named(...pairs) {
  return element("dl", {}, ...pairs.filter(([, text]) => text).flatMap(([name, text]) => [
    element("dt", {}, name), element("dd", {}, element("pre", {}, text)),
  ]));
}

const yuan = (fen) => `${Math.trunc(fen / 100)}.${String(fen % 100).padStart(2, "0")}${say("元", " yuan")}`;
const clock = (time) => new Date(time).toLocaleTimeString(english ? "en-GB" : "zh-CN", { timeZone: "Asia/Shanghai" });
const word = (status) => (english || !statuses[status] ? status : `${statuses[status]} ${status}`);

function decode(base64, type) {
  const bytes = Uint8Array.from(atob(base64 ?? ""), (letter) => letter.charCodeAt(0));
  return new TextDecoder(/gbk/i.test(type ?? "") ? "gbk" : "utf-8").decode(bytes);
}

// act posts to the control interface and shows what came of it.
async function act(method, path, body) {
  try {
    const answer = await fetch(`sandbox/${path}`, { method, body: body && JSON.stringify(body) });
    const told = await answer.json();
    get("said").textContent = told.error ?? "";
  } catch (problem) {
    get("said").textContent = String(problem);
  }
  await refresh();
}

function call(made) {
  const right = made.Signature && made.Signature === made.Expected;
  const verdict = !made.Signed ? say("没有签名可验", "no signature to verify")
    : right ? say("验签通过", "the signature is right") : say("验签失败", "the signature is wrong");
  return fold(`call ${made.Time} ${made.Path} ${made.Signature}`, [
    element("time", {}, clock(made.Time)), element("code", {}, made.Path),
    element("span", { class: right ? "good" : "bad" }, verdict), made.ErrCode || say("没有返回", "no answer"),
  ], () => [named(
    [say("请求报文", "Body"), decode(made.Body) || made.Query], [say("待签名串", "String signed"), made.Signed],
    [say("收到的签名", "Signature received"), made.Signature],
    [say("应有的签名", "Signature expected"), right ? "" : made.Expected], [say("提示", "Warning"), made.Warning],
  )]);
}

function attempt(sent) {
  const answer = sent.Err || `${sent.Status} ${JSON.stringify(sent.Answer)}`;
  return fold(`sent ${sent.Time} ${sent.Order} ${sent.Kind} ${sent.Attempt}`, [
    element("time", {}, clock(sent.Time)),
    `${say("通知", "notify")} ${say(kinds[sent.Kind] ?? sent.Kind, sent.Kind)} #${sent.Attempt} `
      + (sent.Variant === "genuine" ? "" : say(...variants[sent.Variant])),
    element("span", { class: sent.Delivered ? "good" : "bad" }, answer),
  ], () => [named(
    [say("地址", "Address"), sent.URL], [say("原始报文", "Raw body"), decode(sent.Body, sent.ContentType)],
    [say("待签名串", "String signed"), sent.Signed], [say("签名", "Signature"), sent.Signature],
    [say("返回", "Answer"), answer], [say("保存为", "Saved as"), sent.Saved],
  )]);
}

// timeline is what has happened to an order, the oldest first.
function timeline(order) {
  const events = [];
  const add = (time, ...what) => events.push([Date.parse(time), element("li", {}, ...what)]);
  const note = (time, text) => add(time, element("time", {}, clock(time)), " ", text);
  note(order.created, say("下单", "ordered"));
  if (order.paid) note(order.paid, say("买家付款", "paid by the buyer"));
  for (const refund of order.refunds ?? []) {
    note(refund.time, `${say("退款", "refund")} ${refund.refundOrderId} ${yuan(refund.amount)} ${word(refund.status)}`);
  }
  for (const back of order.returns ?? []) {
    note(back.time, `${say("资金退回", "money went back")} ${yuan(back.amount)} (${back.by})`);
  }
  const numbers = [order.merOrderId, order.billNo, order.sn, ...(order.refunds ?? []).map((refund) => refund.refundOrderId)].filter(Boolean);
  for (const made of view.calls) if (mentions(made, numbers)) add(made.Time, call(made));
  for (const sent of view.deliveries) if (sent.Order === order.merOrderId) add(sent.Time, attempt(sent));
  events.sort((one, other) => one[0] - other[0]);
  const list = element("ol", {}, ...events.map(([, item]) => item));
  for (const notice of order.notifies ?? []) {
    const about = `${say("通知", "notify")} ${say(kinds[notice.kind] ?? notice.kind, notice.kind)}: `;
    if (notice.accepted) continue;
    if (notice.failed) list.append(element("li", { class: "bad" }, about + say("已放弃：", "given up: ") + notice.failed));
    else if (notice.next) list.append(element("li", {}, about + say("下次发送 ", "next try ") + clock(notice.next)));
  }
  return list;
}

// mentions reports whether a call is about one of the numbers; of a body that was cut off, whether it holds one.
function mentions(made, numbers) {
  const text = decode(made.Body) || new URLSearchParams(made.Query).get("content") || "";
  try {
    return Object.values(JSON.parse(text)).some((value) => numbers.includes(value));
  } catch {
    return numbers.some((number) => text.includes(number));
  }
}

function buttons(order) {
  const number = order.merOrderId;
  const button = (action, name, run) => element("button", { id: `${action}-${number}`, onclick: run }, name);
  const made = [];
  if (order.payable) {
    made.push(button("pay", say("付款", "Pay"), () => act("POST", "pay", { number })),
      button("close", say("关闭", "Close"), () => act("POST", "close", { number })));
  } else if (!order.paid) {
    made.push(button("revive", say("关闭后付款", "Pay although closed"), () => act("POST", "pay", { number, closed: true })));
  } else {
    const left = order.totalAmount - order.refundedAmount;
    const amount = element("input", {
      id: `amount-${number}`, inputmode: "numeric", value: amounts.get(number) ?? left, "aria-label": say("退款金额，单位分", "Amount to refund, in fen"),
      oninput: (event) => amounts.set(number, event.target.value),
    });
    made.push(amount, button("refund", say("退款（分）", "Refund (fen)"), () => {
      amounts.delete(number);
      act("POST", "refund", { number, amount: Math.trunc(Number(amount.value)) || 0 });
    }));
  }
  const last = (order.notifies ?? []).at(-1);
  if (last?.url) {
    for (const variant of view.variants) {
      made.push(button(variant, say(...variants[variant]), () => act("POST", "notify", { number, kind: last.kind, variant })));
    }
  }
  return element("div", { class: "buttons" }, ...made);
}

function draw() {
  const focused = document.activeElement?.id;
  document.documentElement.lang = english ? "en" : "zh-CN";
  get("title").textContent = document.title = say(...view.title);
  get("known").textContent = [...view.known.map((one) => `${say(...one.name)} ${one.value}`), clock(view.now)].join(" · ");
  get("warnings").replaceChildren(...view.warnings.map((text) => element("li", {}, text)));
  get("filter").placeholder = say("按订单号、退款单号或状态筛选", "Filter by number or status");
  get("filter").setAttribute("aria-label", get("filter").placeholder);

  const [faults, allFaults] = get("faults").children;
  faults.textContent = say("故障开关", "Faults") + (view.faults.length ? ` (${view.faults.length})` : "");
  allFaults.replaceChildren(...switches.map(([fault, chinese, inEnglish]) => {
    const on = view.faults.some((one) => one.kind === fault.kind);
    const box = element("input", {
      type: "checkbox", id: `fault-${fault.kind}`, checked: on ? "" : false,
      onchange: () => (box.checked ? act("POST", "faults", { ...fault, times: -1 }) : act("DELETE", `faults?kind=${fault.kind}`)),
    });
    return element("label", {}, box, " ", say(chinese, inEnglish));
  }));

  const wanted = get("filter").value.trim().toLowerCase();
  const orders = view.orders.filter((order) => [
    order.merOrderId, order.billNo, order.sn, word(order.status), ...(order.refunds ?? []).map((refund) => refund.refundOrderId),
  ].join(" ").toLowerCase().includes(wanted));
  get("orders").replaceChildren(...orders.map((order) => fold(`order ${order.merOrderId}`, [
    element("code", {}, order.merOrderId), element("span", {}, yuan(order.totalAmount)), element("strong", {}, word(order.billStatus ?? order.status)),
    element("time", {}, clock(order.created)),
  ], () => [buttons(order), timeline(order)])));
  if (!orders.length) get("orders").append(element("p", { class: "quiet" }, say("还没有订单", "No orders")));

  const [calls, allCalls] = get("calls").children;
  calls.textContent = `${say("全部调用", "All calls")} (${view.calls.length})`;
  allCalls.replaceChildren(...view.calls.map(call));
  if (focused && document.activeElement?.id !== focused) get(focused)?.focus();
}

// refresh looks for news, and again in five seconds; not while nobody can see the page.
async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const text = await (await fetch("sandbox/view")).text();
    const news = JSON.parse(text);
    const same = JSON.stringify({ ...news, now: 0 });
    view = news;
    if (same !== shown) { shown = same; draw(); }
  } catch (problem) {
    get("said").textContent = say("沙箱没有响应：", "The sandbox does not answer: ") + problem;
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, 5000);
}

get("filter").addEventListener("input", () => view && draw());
document.addEventListener("visibilitychange", refresh);
refresh();

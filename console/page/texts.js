// What the gateway's words mean, and what to do. Each is [Chinese, English]; a second pair says what to do.

import { say } from "./parts.js";

const answered = ["查看平台返回的错误码及应对措施。", "Look at the platform's code and its remedy."];
const caller = ["让调用方修正请求后重试；平台没有收到。", "The caller has to correct its request and repeat it. The platform has not received it."];
const query = ["先查询订单，再决定是否重试。", "Query the order before you repeat anything."];
const verify = ["原因见下方：是哪一种常见错误。", "See below which known mistake explains it."];
const ours = ["看日志，并检查网关配置。", "Look at the log and at the gateway's configuration."];
const app = ["看应用的日志。平台会重发；修好后也可以手工重新通知。", "Look at the app's log. The platform repeats the notification. Once the app works, you can also notify it again."];

const codes = {
  GATEWAY_FORBIDDEN: [["网关拒绝了调用方", "the gateway refuses the caller"], ["检查 allow、token 和 paths。", "Check allow, token and paths."]],
  GATEWAY_NO_MERCHANT: [["没有这个商户", "there is no such merchant"], ours],
  GATEWAY_BAD_REQUEST: [["请求本身有问题", "the request itself is wrong"], caller],
  GATEWAY_INVALID: [["字段不符合要求", "some fields are not valid"], caller],
  GATEWAY_BUSY: [["该订单的另一笔资金操作正在进行", "another money call for this order is in progress"], ["稍后重试。", "Repeat it a little later."]],
  GATEWAY_REFUND_UNRESOLVED: [["该订单另一笔退款的结果未知", "the outcome of another refund of this order is not known"], ["打开该订单，先查询那笔退款。", "Open the order and query that refund first."]],
  GATEWAY_WATCH_UNAVAILABLE: [["watch 无法记录这次调用", "the watch cannot record the call"], ["检查磁盘空间和 watch 的存储。", "Check the disk space and the watch's store."]],
  GATEWAY_UNREACHABLE: [["连不上平台，请求没有发出", "the platform cannot be reached; the call was not sent"], ["检查网络和 DNS；重试是安全的。", "Check the network and DNS; repeating is safe."]],
  GATEWAY_BAD_RESPONSE: [["平台的返回不完整或无效", "the platform's answer is incomplete or invalid"], query],
  GATEWAY_TIMEOUT: [["平台没有按时返回", "the platform did not answer in time"], query],
  GATEWAY_INTERNAL: [["网关内部错误", "an internal error in the gateway"], ours],
};

const reasons = {
  signature: [["签名与参数及密钥不符", "the signature does not match these values and keys"], verify],
  missing_signature: [["没有签名", "there is no signature"], ["多半不是平台发的。如果是，检查中间的代理有没有改写报文。", "It is probably not from the platform. If it is, something on the way has changed it."]],
  sign_type: [["不认识这种 signType", "the signType is not known"], verify],
  digest: [["sign_types 不接受这种摘要算法", "sign_types does not accept this digest"], ["需要时把它加入 sign_types。", "Add it to sign_types if the platform uses it."]],
  foreign_mid: [["签名正确，但属于别的商户号", "correctly signed, but for another mid"], ["如果是自己的商户号，把它加到 mid 里。", "Add the mid if it is yours."]],
  foreign_terminal: [["签名正确，但属于别的终端", "correctly signed, but for another terminal"], ours],
  ambiguous: [["待签名串可以拆成另一组字段", "the signed text can be split into other fields"], ["注意：可能有人在重放买家拿到的签名。请查单。", "Beware: somebody may replay a signature that a buyer has seen. Query the order."]],
  mixed: [["含有真实通知里不会同时出现的字段", "it combines fields that no genuine notify combines"], ["注意：可能是伪造的。请查单。", "Beware: it may be forged. Query the order."]],
  contradicted: [["平台的查单结果与通知矛盾", "the platform's answer to a query contradicts it"], ["注意：可能是伪造的。请查单。", "Beware: it may be forged. Query the order."]],
  not_answered: [["向平台查单没有返回", "the query was not answered"], ["平台会重发。如果持续出现，检查到平台的网络。", "The platform repeats the notification. If this continues, check the network to the platform."]],
  not_comparable: [["查单结果缺少关键字段", "the answer lacks a deciding field"], ["这类通知请用不带 confirm 的路径接收。", "Receive such notifications on a path without confirm."]],
  order: [["金额或商户号与下单不符", "the amount or the mid differs from the order"], ["打开该订单核对，不要发货。", "Open the order and compare. Do not deliver the goods."]],
  busy: [["正在通知应用这个事件", "the app is being notified of this event right now"], ["无需处理，平台会重发。", "Nothing to do: the platform repeats the notification."]],
  not_ready: [["终端还没有密钥", "the terminal has no key yet"], ours],
  reads_otherwise: [["PHP 的解析结果会与网关不同", "PHP would read it differently than the gateway"], ["改用 format json。", "Use format json."]],
  content_type: [["既不是表单也不是 JSON", "neither a form nor JSON"], verify],
  content_encoding: [["报文带有 Content-Encoding", "the body has a Content-Encoding"], verify],
  no_merchant: [["没有这个商户", "there is no such merchant"], ["检查通知地址里的商户名。", "Check the merchant's name in the notification's address."]],
  app_refused: [["应用返回了，但没有收下", "the app answered, but did not accept it"], app],
  app_unreachable: [["连不上应用", "the app cannot be reached"], app],
  app_timeout: [["应用太慢", "the app is too slow"], app],
  no_handler: [["chinaums_notify 后面没有处理器", "there is no handler behind the notify handler"], ours],
};

// explained says what a code of the gateway's own, or a reason, means and what to do: [meaning, remedy], or nothing.
export function explained(word) {
  const known = codes[word] ?? reasons[word];
  return known && [say(...known[0]), say(...known[1])];
}

export const lookAtCode = () => say(...answered);

// fine tells of a platform's code that there is nothing to explain about it.
export const fine = (code) => !code || code === "other" || /^((PAY|PRECREATE|REFUND|CANCEL|CANCEL_ABORT)_)?SUCCESS$/.test(code);

const states = {
  sent: ["已发出", "sent"], open: ["待付款", "open"], paid: ["已付款", "paid"], refunded_part: ["部分退款", "refunded in part"], refunded: ["已全额退款", "refunded"],
  closed: ["已关闭", "closed"], unseen: ["平台查不到", "unseen"], stuck: ["卡住", "stuck"], unresolved: ["结果未知", "unresolved"], succeeded: ["成功", "succeeded"], failed: ["失败", "failed"],
  pending: ["待投递", "pending"], delivered: ["已投递", "delivered"], dead: ["死信", "dead"],
};
export const state = (word) => (states[word] ? say(...states[word]) : word ?? "");

const outcomes = { answered: ["已返回", "answered", "good"], not_sent: ["未发出", "not sent", "warn"], unknown: ["结果未知", "unknown", "bad"] };
const link = { signed: ["链接已签名，没有调用平台", "link signed; nothing sent", "quiet"] }; // no call, and not counted as one
const results = {
  taken: ["已收下", "taken", "good"], repeated: ["重复", "repeated", "quiet"], failed: ["应用未收下", "not accepted", "bad"], rejected: ["被拒绝", "rejected", "warn"], observed: ["仅观察", "observed", "quiet"],
};
const described = (all) => (word) => (all[word] ? { text: say(all[word][0], all[word][1]), kind: all[word][2] } : { text: word, kind: "quiet" });
export const outcome = described({ ...outcomes, ...link });
export const result = described(results);
export const outcomeKinds = () => Object.values(outcomes).map(([zh, en, kind], at) => [at, say(zh, en), kind]);
export const resultKinds = () => Object.values(results).map(([zh, en, kind], at) => [at, say(zh, en), kind]);

const lines = {
  sent: ["发出", "sent"], answer: ["返回", "answer"], query: ["查单", "query"], notify: ["通知", "notify"], told: ["通知应用", "the app is notified"], override: ["人工放行", "override"], time: ["时间到", "time"],
};
export const line = (word) => (lines[word] ? say(...lines[word]) : word);

const calls = { order: ["下单", "order"], link: ["链接", "link"], refund: ["退款", "refund"], capture: ["担保完成", "capture"], close: ["关单", "close"] };
export const callKind = (word) => (calls[word] ? say(...calls[word]) : word ?? "");

const kinds = { payment: ["付款", "payment"], refund: ["退款", "refund"], bill: ["账单", "bill"], guarantee: ["担保", "guarantee"], deduction: ["代扣", "deduction"] };
const ends = {
  succeeded: ["成功", "succeeded"], created: ["已创建", "created"], pending: ["等待付款", "pending"], closed: ["已关闭", "closed"], unknown: ["未知", "unknown"],
  failed: ["失败", "failed"], processing: ["处理中", "processing"], not_found: ["查不到", "not found"], paid: ["已付", "paid"], unpaid: ["未付", "unpaid"],
};
// type is an event's type in words.
export function type(text) {
  const [kind, end] = String(text ?? "").split(".").slice(-2);
  return kinds[kind] ? `${say(...kinds[kind])} ${ends[end] ? say(...ends[end]) : end}` : text ?? "";
}

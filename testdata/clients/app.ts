// What a merchant's app writes with the types of openapi-typescript and the client of @hey-api/openapi-ts. TestClients
// compiles it.
import type { components, paths, webhooks } from "./openapi-typescript";
import * as chinaums from "./hey-api";
import { createClient } from "./hey-api/client";

type Schemas = components["schemas"];

const identity = { requestTimestamp: "2022-04-15 10:42:59", mid: "898340149000005", tid: "88880001", instMid: "APPDEFAULT" };
const merOrderId = "327M20190212104259723489725391";

const order: Schemas["WxAppPreOrder"] = {
  ...identity, merOrderId, tradeType: "APP", totalAmount: 1234, divisionFlag: true, platformAmount: 234,
  subOrders: [{ mid: "898310148160568", totalAmount: 1000 }],
};
// @ts-expect-error WeChat wants a tradeType.
export const untyped: Schemas["WxAppPreOrder"] = { ...identity, merOrderId };
// @ts-expect-error A call's amount is a number.
export const text: Schemas["Refund"] = { ...identity, merOrderId, refundAmount: "100" };
// @ts-expect-error A refund has an amount.
export const empty: chinaums.Refund = { ...identity, merOrderId };

// An amount of an answer is a number or a text.
const fen = (amount: Schemas["Fen"] | undefined): bigint => BigInt(amount ?? 0);

type Answer = paths["/v1/netpay/query"]["post"]["responses"][200];
export const total = (a: Answer): bigint => fen(a.content["application/json"].totalAmount);
export const outcome = (a: Answer): "answered" | "not_sent" | "unknown" => a.headers["Gateway-Outcome"];

type Notify = webhooks["notify"]["post"]["requestBody"]["content"]["application/json"];
export const paid = (n: Notify): bigint => (n.status === "TRADE_SUCCESS" ? fen(n.totalAmount) : 0n);
export const taken = (n: chinaums.NotifyWebhookPayload): bigint => fen(n.buyerPayAmount);

export async function story(baseUrl: string): Promise<bigint> {
  const client = createClient({ baseUrl });
  const ordered = await chinaums.wxAppPreOrder({ client, body: order });
  if (ordered.error) throw new Error(ordered.response?.headers.get("Gateway-Outcome") ?? "unknown");
  const asked = await chinaums.query({ client, body: { ...identity, merOrderId } });
  const refunded = await chinaums.refund({ client, body: { ...identity, merOrderId, refundAmount: 100 } });
  const state = await chinaums.refundQuery({ client, body: { ...identity, merOrderId } });
  return fen(asked.data?.totalAmount) - fen(refunded.data?.refundAmount) - fen(state.data?.sendBackAmount);
}

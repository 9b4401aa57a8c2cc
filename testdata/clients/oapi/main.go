// Command oapi is a merchant's app that calls the gateway with the client that oapi-codegen makes of openapi.yaml.
// TestClients builds it. It prints a line per answer.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"

	"clients/oapi/chinaums"
)

func main() {
	log.SetFlags(0)
	c, err := chinaums.NewClientWithResponses(os.Getenv("GATEWAY"))
	check(err)
	ctx := context.Background()
	mid, tid, order, refund := os.Getenv("MID"), os.Getenv("TID"), os.Getenv("ORDER"), os.Getenv("REFUND")
	now, inst := time.Now().In(time.FixedZone("UTC+8", 8*60*60)).Format(time.DateTime), "APPDEFAULT"

	switch os.Args[1] {
	case "order":
		r, err := c.WxAppPreOrderWithResponse(ctx, chinaums.WxAppPreOrder{
			RequestTimestamp: now, Mid: mid, Tid: tid, InstMid: inst, MerOrderId: order, TradeType: "APP",
			TotalAmount: new(int64(1234)), NotifyUrl: new(os.Getenv("NOTIFY_URL")), DivisionFlag: new(true),
			PlatformAmount: new(int64(234)), SubOrders: &[]chinaums.OrderSubOrdersItem{{Mid: new("898310148160568"), TotalAmount: new(int64(1000))}},
		})
		check(err)
		a := answered(r.HTTPResponse, r.Body, r.JSON200)
		request, err := a.AppPayRequest.AsOrderResultAppPayRequest0()
		check(err)
		fmt.Println("order", outcome(r.HTTPResponse), a.ErrCode, *a.Status, fen(a.TotalAmount), request["package"])

	case "refund":
		q, err := c.QueryWithResponse(ctx, chinaums.Query{RequestTimestamp: now, Mid: mid, Tid: tid, InstMid: inst, MerOrderId: &order})
		check(err)
		asked := answered(q.HTTPResponse, q.Body, q.JSON200)
		fmt.Println("query", outcome(q.HTTPResponse), asked.ErrCode, *asked.Status, fen(asked.TotalAmount))

		call := chinaums.Refund{
			RequestTimestamp: now, Mid: mid, Tid: tid, InstMid: inst, MerOrderId: order, RefundOrderId: &refund, RefundAmount: 101,
			PlatformAmount: new(int64(1)), SubOrders: &[]chinaums.RefundSubOrdersItem{{Mid: new("898310148160568"), TotalAmount: new(int64(99))}},
		}
		r, err := c.RefundWithResponse(ctx, nil, call)
		check(err)
		refused := answered(r.HTTPResponse, r.Body, r.JSON422)
		fmt.Println("refused", outcome(r.HTTPResponse), refused.ErrCode, (*refused.Fields)[0].Name, (*refused.Fields)[0].Rule)

		call.RefundAmount = 100
		r, err = c.RefundWithResponse(ctx, nil, call)
		check(err)
		a := answered(r.HTTPResponse, r.Body, r.JSON200)
		fmt.Println("refund", outcome(r.HTTPResponse), a.ErrCode, *a.RefundStatus, fen(a.RefundAmount))

		s, err := c.RefundQueryWithResponse(ctx, chinaums.RefundQuery{RequestTimestamp: now, Mid: mid, Tid: tid, InstMid: inst, MerOrderId: refund})
		check(err)
		state := answered(s.HTTPResponse, s.Body, s.JSON200)
		fmt.Println("refund-query", outcome(s.HTTPResponse), state.ErrCode, *state.RefundStatus, fen(state.SendBackAmount))

	case "notify":
		var n chinaums.Notify
		check(json.NewDecoder(os.Stdin).Decode(&n))
		fmt.Println("notify", *n.Status, fen(n.TotalAmount))
	}
}

// answered is the answer of the wanted status.
func answered[T any](r *http.Response, body []byte, answer *T) *T {
	if answer == nil {
		log.Fatalf("%s: %s", r.Status, body)
	}
	return answer
}

func outcome(r *http.Response) string { return r.Header.Get("Gateway-Outcome") }

// fen reads an amount however the platform wrote it.
func fen(amount *chinaums.Fen) int64 {
	if n, err := amount.AsFen0(); err == nil {
		return n
	}
	text, err := amount.AsFen1()
	check(err)
	n, err := strconv.ParseInt(text, 10, 64)
	check(err)
	return n
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Command ogen is a merchant's app that calls the gateway with the client that ogen makes of openapi.yaml, which takes no
// answer that does not fit. TestClients builds it. It prints a line per answer.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/ogen-go/ogen/ogenerrors"

	"clients/ogen/chinaums"
)

type noToken struct{}

func (noToken) Token(context.Context, chinaums.OperationName) (chinaums.Token, error) {
	return chinaums.Token{}, ogenerrors.ErrSkipClientSecurity
}

func main() {
	log.SetFlags(0)
	c, err := chinaums.NewClient(os.Getenv("GATEWAY"), noToken{})
	check(err)
	ctx := context.Background()
	mid, tid, order, refund := os.Getenv("MID"), os.Getenv("TID"), os.Getenv("ORDER"), os.Getenv("REFUND")
	now, inst := time.Now().In(time.FixedZone("UTC+8", 8*60*60)).Format(time.DateTime), "APPDEFAULT"
	text, number := chinaums.NewOptString, chinaums.NewOptInt64

	switch os.Args[1] {
	case "order":
		r, err := c.WxAppPreOrder(ctx, &chinaums.WxAppPreOrder{
			RequestTimestamp: now, Mid: mid, Tid: tid, InstMid: inst, MerOrderId: order, TradeType: "APP",
			TotalAmount: number(1234), NotifyUrl: text(os.Getenv("NOTIFY_URL")), DivisionFlag: chinaums.NewOptBool(true),
			PlatformAmount: number(234), SubOrders: []chinaums.OrderSubOrdersItem{{Mid: text("898310148160568"), TotalAmount: number(1000)}},
		})
		a := answered[*chinaums.OrderResultHeaders](r, err)
		request := a.Response.AppPayRequest.Value.OrderResultAppPayRequest0
		named, err := strconv.Unquote(string(request["package"]))
		check(err)
		fmt.Println("order", a.GatewayOutcome, a.Response.ErrCode, a.Response.Status.Value, fen(a.Response.TotalAmount), named)

	case "refund":
		q, err := c.Query(ctx, &chinaums.Query{RequestTimestamp: now, Mid: mid, Tid: tid, InstMid: inst, MerOrderId: text(order)})
		asked := answered[*chinaums.QueryResultHeaders](q, err)
		fmt.Println("query", asked.GatewayOutcome, asked.Response.ErrCode, asked.Response.Status.Value, fen(asked.Response.TotalAmount))

		call := &chinaums.Refund{
			RequestTimestamp: now, Mid: mid, Tid: tid, InstMid: inst, MerOrderId: order, RefundOrderId: text(refund), RefundAmount: 101,
			PlatformAmount: number(1), SubOrders: []chinaums.RefundSubOrdersItem{{Mid: text("898310148160568"), TotalAmount: number(99)}},
		}
		r, err := c.Refund(ctx, call, chinaums.RefundParams{})
		refused := answered[*chinaums.InvalidHeaders](r, err)
		fmt.Println("refused", refused.GatewayOutcome, refused.Response.ErrCode, refused.Response.Fields[0].Name, refused.Response.Fields[0].Rule)

		call.RefundAmount = 100
		r, err = c.Refund(ctx, call, chinaums.RefundParams{})
		a := answered[*chinaums.RefundResultHeaders](r, err)
		fmt.Println("refund", a.GatewayOutcome, a.Response.ErrCode, a.Response.RefundStatus.Value, fen(a.Response.RefundAmount))

		s, err := c.RefundQuery(ctx, &chinaums.RefundQuery{RequestTimestamp: now, Mid: mid, Tid: tid, InstMid: inst, MerOrderId: refund})
		state := answered[*chinaums.RefundQueryResultHeaders](s, err)
		fmt.Println("refund-query", state.GatewayOutcome, state.Response.ErrCode, state.Response.RefundStatus.Value, fen(state.Response.SendBackAmount))

	case "notify":
		content, err := io.ReadAll(os.Stdin)
		check(err)
		var n chinaums.Notify
		check(n.UnmarshalJSON(content))
		fmt.Println("notify", n.Status.Value, fen(n.TotalAmount))
	}
}

// answered is the answer of the wanted kind.
func answered[T any](r any, err error) T {
	check(err)
	answer, ok := r.(T)
	if !ok {
		log.Fatalf("%T: %+v", r, r)
	}
	return answer
}

// fen reads an amount however the platform wrote it.
func fen(amount chinaums.OptFen) int64 {
	if n, ok := amount.Value.GetInt64(); ok {
		return n
	}
	n, err := strconv.ParseInt(amount.Value.String, 10, 64)
	check(err)
	return n
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

package chinaums

import (
	"embed"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
)

// The documents' request tables are the files in schema, one per interface. What a table cannot say, because it is about
// several fields at once, is said here (checklist FMT-06…08).

//go:embed schema/*.json
var schemaFiles embed.FS

// interfaces are the calls that have a table, by path (checklist SYS-01, SYS-03, SYS-05…16). Two documents describe
// /v1/netpay/refund (SYS-01 and SYS-12); its table is the wider of both.
var interfaces = map[string]fields.Interface{
	"/v1/netpay/bills/preauth-cancel": {Schema: "bills-preauth-cancel.json", Rules: []fields.Rule{orderNumber}},
	"/v1/netpay/wx/app-pre-order":     {Schema: "wx-app-pre-order.json", Rules: orderRules},
	"/v1/netpay/trade/precreate":      {Schema: "trade-precreate.json", Rules: orderRules},
	"/v1/netpay/qmf/order":            {Schema: "qmf-order.json", Rules: orderRules},
	"/v1/netpay/uac/app-order":        {Schema: "uac-app-order.json", Rules: orderRules},
	"/v1/netpay/applepay/order":       {Schema: "applepay-order.json", Rules: orderRules},
	"/v1/netpay/trade/app-pre-order":  {Schema: "trade-app-pre-order.json", Rules: orderRules},
	"/v1/netpay/query":                {Schema: "query.json", Rules: []fields.Rule{orderNumber}},
	"/v1/netpay/refund":               {Schema: "refund.json", Rules: []fields.Rule{orderNumber, refundOfSplit}},
	"/v1/netpay/refund-query":         {Schema: "refund-query.json", Rules: []fields.Rule{orderNumber}},
	"/v1/netpay/secure-cancel":        {Schema: "secure-cancel.json", Rules: []fields.Rule{orderNumber}},
	"/v1/netpay/secure-complete":      {Schema: "secure-complete.json", Rules: []fields.Rule{orderNumber}},
	"/v1/netpay/close":                {Schema: "close.json", Rules: []fields.Rule{orderNumber}},
}

var orderRules = []fields.Rule{orderNumber, goodsOrNumber, split}

var tables = fields.Embedded(schemaFiles, interfaces)

// validate implements outbound.Platform.
func validate(path string, body []byte) []fields.Error { return tables().Check(path, body) }

// orderNumber advises: most documents allow 6 to 32 characters, two of them up to 64.
func orderNumber(body fields.Object) []fields.Error {
	number, _ := body["merOrderId"].(string)
	if n := utf8.RuneCountInString(number); n <= 32 || n > 64 {
		return nil
	}
	return []fields.Error{{
		Name: "merOrderId", Rule: "maxLength", Advice: true,
		Message: "merOrderId 多数接口限 32 个字符 / merOrderId: most interfaces take at most 32 characters",
	}}
}

// goodsOrNumber: goods are sent, or the number under which they were sent before (E1.1-REQ-24, 跟goods字段二选一).
func goodsOrNumber(body fields.Object) []fields.Error {
	if fields.Absent(body["goods"]) || fields.Absent(body["goodsTradeNo"]) {
		return nil
	}
	return []fields.Error{{
		Name: "goodsTradeNo", Rule: "excludes",
		Message: "goodsTradeNo 和 goods 只能二选一 / goodsTradeNo and goods exclude each other",
	}}
}

// split: what an order that is to be split must have (FMT-06, FMT-07).
func split(body fields.Object) []fields.Error {
	if !fields.True(body["divisionFlag"]) {
		return nil
	}
	var found []fields.Error
	if fields.Absent(body["goods"]) && fields.Absent(body["subOrders"]) {
		found = append(found, fields.Error{
			Name: "subOrders", Rule: "required",
			Message: "divisionFlag 为 true 时 goods 和 subOrders 不能同时为空 / with divisionFlag true, goods and subOrders must not both be empty",
		})
	}
	if fields.True(body["secureTransaction"]) {
		found = append(found, fields.Error{
			Name: "secureTransaction", Rule: "excludes",
			Message: "divisionFlag 为 true 时 secureTransaction 应为 false 或不上送 / with divisionFlag true, secureTransaction must be false or absent",
		})
	}
	if fields.Absent(body["platformAmount"]) {
		found = append(found, fields.Missing("platformAmount"))
	}
	if shares, ok := body["subOrders"].([]any); ok {
		complete := !fields.Absent(body["platformAmount"])
		for i, share := range shares {
			share, ok := share.(fields.Object)
			if !ok {
				continue // its table has said so
			}
			for _, name := range []string{"mid", "totalAmount"} {
				if fields.Absent(share[name]) {
					complete = false
					found = append(found, fields.Missing(fmt.Sprintf("subOrders[%d].%s", i, name)))
				}
			}
		}
		if complete && len(shares) > 0 {
			found = append(found, sum(body, "totalAmount", "subOrders", "totalAmount", "platformAmount")...)
		}
	}
	if goods, ok := body["goods"].([]any); ok && slices.ContainsFunc(goods, priced) {
		found = append(found, sum(body, "totalAmount", "goods", "subOrderAmount", "")...)
	}
	return found
}

// priced reports whether an item of goods has a sub-merchant's amount. Goods without any only describe an order that is
// split by subOrders.
func priced(item any) bool {
	object, _ := item.(fields.Object)
	return !fields.Absent(object["subOrderAmount"])
}

// refundOfSplit: what is refunded of a split order is refunded by the sub-merchants and the platform's merchant (FMT-08).
func refundOfSplit(body fields.Object) []fields.Error {
	platform, _ := fields.Whole(body["platformAmount"])
	if fields.Absent(body["subOrders"]) && platform == 0 {
		return nil
	}
	return sum(body, "refundAmount", "subOrders", "totalAmount", "platformAmount")
}

// sum holds an amount against the amounts of a list's elements and, if it is named, one more. Where one of them is no
// amount, the table has said so already.
func sum(body fields.Object, total, list, part, more string) []fields.Error {
	want, ok := amount(body[total])
	if !ok || want == 0 {
		return nil
	}
	elements, ok := body[list].([]any)
	if !ok && !fields.Absent(body[list]) {
		return nil
	}
	var got int64
	for _, element := range elements {
		object, _ := element.(fields.Object)
		if fields.Absent(object[part]) {
			continue
		}
		share, ok := amount(object[part])
		if !ok {
			return nil
		}
		got += share
	}
	chinese, english := "", ""
	if more != "" {
		if !fields.Absent(body[more]) {
			share, ok := amount(body[more])
			if !ok {
				return nil
			}
			got += share
		}
		chinese, english = "加 "+more, " plus "+more
	}
	if got == want {
		return nil
	}
	return []fields.Error{{Name: total, Rule: "sum", Message: fmt.Sprintf(
		"%s 应等于 %s 中各项 %s 之和%s / %s must be the sum of %s in all of %s%s", total, list, part, chinese, total, part, list, english)}}
}

// amount reads an amount that no table refuses, so that sums stay far from overflow.
func amount(value any) (int64, bool) {
	fen, ok := fields.Whole(value)
	return fen, ok && fen >= 0 && fen <= 1e8
}

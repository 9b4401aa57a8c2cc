package chinaums

import (
	"embed"
	"fmt"
	"io/fs"
	"sync"

	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
)

// The documents' request tables are the files in schema, one per interface. What a table cannot say, because it is about
// several fields at once, is said here (checklist FMT-06…08).

//go:embed schema/*.json
var schemaFiles embed.FS

// interfaces are the calls that have a table, by path (checklist SYS-01, SYS-03, SYS-05…16). Two documents describe
// /v1/netpay/refund (SYS-01 and SYS-12); its table is the wider of both.
var interfaces = map[string]fields.Interface{
	"/v1/netpay/refund": {Schema: "refund.json", Rules: []fields.Rule{adviseOrderNumber, refundSplit}},
}

// tables are compiled at the first call that is validated.
var tables = sync.OnceValue(func() *fields.Tables {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // the directory is embedded
	}
	compiled, err := fields.Compile(files, interfaces)
	if err != nil {
		panic(err) // the files are embedded, and tested
	}
	return compiled
})

// validate implements outbound.Platform.
func validate(path string, body []byte) []fields.Error { return tables().Check(path, body) }

// adviseOrderNumber: documents allow 6 to 32 characters, two of them up to 64.
func adviseOrderNumber(body fields.Object) []fields.Error {
	number, _ := body["merOrderId"].(string)
	if n := len([]rune(number)); n <= 32 || n > 64 {
		return nil
	}
	return []fields.Error{{
		Name: "merOrderId", Rule: "maxLength", Advice: true,
		Message: "merOrderId 多数接口限 32 个字符 / merOrderId: most interfaces take at most 32 characters",
	}}
}

// refundSplit: what is refunded of a split order is refunded by the sub-merchants and the platform's merchant (FMT-08).
func refundSplit(body fields.Object) []fields.Error {
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
	var got int64
	if list, ok := body[list].([]any); ok {
		for _, element := range list {
			object, _ := element.(fields.Object)
			if object[part] == nil {
				continue
			}
			share, ok := amount(object[part])
			if !ok {
				return nil
			}
			got += share
		}
	}
	chinese, english := "", ""
	if more != "" {
		if body[more] != nil {
			share, ok := amount(body[more])
			if !ok {
				return nil
			}
			got += share
		}
		chinese, english = "与 "+more, " and "+more
	}
	if got == want {
		return nil
	}
	return []fields.Error{{Name: total, Rule: "sum", Message: fmt.Sprintf(
		"%s 应等于 %s 中各 %s%s之和 / %s must be the sum of each %s in %s%s", total, list, part, chinese, total, part, list, english)}}
}

// amount reads an amount that no table refuses, so that sums stay far from overflow.
func amount(value any) (int64, bool) {
	fen, ok := fields.Whole(value)
	return fen, ok && fen >= 0 && fen <= 1e8
}

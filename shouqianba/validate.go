package shouqianba

import (
	"embed"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
)

// Document D's request table is the file in schema. What it cannot say is said here.

//go:embed schema/*.json
var schemaFiles embed.FS

// interfaces are the calls that have a table, by path (checklist SYS-04).
var interfaces = map[string]fields.Interface{
	"/upay/v2/refund": {Schema: "refund.json", Rules: []fields.Rule{orderNumber, extended}},
}

var tables = fields.Embedded(schemaFiles, interfaces)

// validate implements outbound.Platform.
func validate(path string, body []byte) []fields.Error { return tables().Check(path, body) }

// orderNumber: one of the two must be there (D-RULE-01); a long client_sn is advised against.
func orderNumber(body fields.Object) []fields.Error {
	if fields.Absent(body["sn"]) && fields.Absent(body["client_sn"]) {
		return []fields.Error{{
			Name: "client_sn", Rule: "required",
			Message: "sn 和 client_sn 不能同时为空 / sn and client_sn must not both be empty",
		}}
	}
	number, _ := body["client_sn"].(string)
	if n := utf8.RuneCountInString(number); n <= 32 || n > 64 {
		return nil
	}
	return []fields.Error{{
		Name: "client_sn", Rule: "maxLength", Advice: true,
		Message: "client_sn 请求限 32 个字符 / client_sn: requests take at most 32 characters",
	}}
}

// The limits of extended, in bytes but for the number of fields (D-REQ-07).
const (
	maxExtended      = 24
	maxExtendedKey   = 64
	maxExtendedValue = 256
)

// extended: the map of parameters that were agreed upon is bounded.
func extended(body fields.Object) []fields.Error {
	parameters, ok := body["extended"].(fields.Object)
	if !ok {
		return nil // its table has said so, if it is no map
	}
	var found []fields.Error
	if len(parameters) > maxExtended {
		found = append(found, fields.Error{
			Name: "extended", Rule: "maxProperties",
			Message: fmt.Sprintf("extended 最多 %d 个字段 / extended must have at most %d fields", maxExtended, maxExtended),
		})
	}
	for i, key := range slices.Sorted(maps.Keys(parameters)) {
		if i == maxExtended {
			break
		}
		if len(key) > maxExtendedKey {
			found = append(found, fields.Error{
				Name: "extended", Rule: "propertyNames",
				Message: fmt.Sprintf("extended 的 key 不超过 %d 字节 / keys of extended must have at most %d bytes", maxExtendedKey, maxExtendedKey),
			})
			continue
		}
		if value, ok := parameters[key].(string); ok && len(value) > maxExtendedValue {
			found = append(found, fields.Error{
				Name: "extended." + key, Rule: "maxLength",
				Message: fmt.Sprintf("extended 的 value 不超过 %d 字节 / values of extended must have at most %d bytes", maxExtendedValue, maxExtendedValue),
			})
		}
	}
	return found
}

package chinaums

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
)

// openapi.yaml is made of the files in schema and of what stands here:
//
//	UPDATE_OPENAPI=1 go test -run TestOpenAPI .
//
// Generators of clients read it (clients_test.go), and some of them refuse a list of types. So a field of a call has the
// type that stands first in its list, the documents' own, although the guard takes text in a number's place too. A field
// of an answer stays as wide as its table.
const openAPIFile = "openapi.yaml"

// operations are the paths in the order of the document. The summary is the schema's title.
var operations = []struct{ path, tag, response string }{
	{"/v1/netpay/wx/app-pre-order", "下单", "order.response.json"},
	{"/v1/netpay/trade/precreate", "下单", "order.response.json"},
	{"/v1/netpay/trade/app-pre-order", "下单", "order.response.json"},
	{"/v1/netpay/uac/app-order", "下单", "order.response.json"},
	{"/v1/netpay/qmf/order", "下单", "order.response.json"},
	{"/v1/netpay/applepay/order", "下单", "order.response.json"},
	{"/v1/netpay/query", "查询与关闭", "query.response.json"},
	{"/v1/netpay/close", "查询与关闭", "close.response.json"},
	{"/v1/netpay/refund", "退款", "refund.response.json"},
	{"/v1/netpay/refund-query", "退款", "refund-query.response.json"},
	{"/v1/netpay/secure-complete", "担保", "secure-complete.response.json"},
	{"/v1/netpay/secure-cancel", "担保", "secure-cancel.response.json"},
	{"/v1/netpay/bills/preauth-cancel", "预授权", "bills-preauth-cancel.response.json"},
}

var tags = [][2]string{
	{"下单", "生成待支付的订单 / orders to be paid"},
	{"查询与关闭", "订单的状态；关闭未支付的订单 / an order's state; closing what is not paid"},
	{"退款", "退款和退款结果 / refunds and what became of them"},
	{"担保", "担保交易的完成和撤销 / guaranteed payments: complete, cancel"},
	{"预授权", "预授权的撤销 / pre-authorizations: cancel"},
	{"通知", "网关交给商户应用的通知 / what the gateway hands to the merchant's app"},
}

// ownAnswers are what the gateway answers itself, by status.
var ownAnswers = []struct {
	status      int
	name        string
	code        string
	outcome     string
	description string
}{
	{400, "EmptyBody", "GATEWAY_BAD_REQUEST", "not_sent", "请求体为空或未能完整读取 / the body is empty or could not be read whole"},
	{403, "Forbidden", "GATEWAY_FORBIDDEN", "not_sent", "来源、令牌或路径不被允许，或来自浏览器 / origin, token or path not allowed, or a browser"},
	{404, "NoMerchant", "GATEWAY_NO_MERCHANT", "not_sent", "网关没有此商户 / the gateway has no such merchant"},
	{405, "NotPost", "GATEWAY_BAD_REQUEST", "not_sent", "只接受 POST / only POST is accepted"},
	{413, "TooLarge", "GATEWAY_BAD_REQUEST", "not_sent", "请求体超过 max_size / the body is larger than max_size"},
	{415, "NotJSON", "GATEWAY_BAD_REQUEST", "not_sent", "Content-Type 必须是 application/json / the Content-Type must be application/json"},
	{409, "Guarded", "GATEWAY_REFUND_UNRESOLVED", "not_sent", "watch：GATEWAY_BUSY 该订单的另一笔资金操作正在进行，按 Retry-After 重试；GATEWAY_REFUND_UNRESOLVED 另一笔退款结果未知，或金额相同的一笔已成功但应答丢失 / another money call of this order is on its way, the outcome of another refund is not known, or one of the same amount has succeeded and its answer was lost"},
	{422, "Invalid", "GATEWAY_INVALID", "not_sent", "validate reject：字段不符合接口文档，见 fields；watch：金额超过可退余额，或与此前的金额不同，或有歧义 / fields do not fit the documents, see fields; more than can be refunded, another amount than before, or what can be read in two ways"},
	{425, "EarlyData", "GATEWAY_BAD_REQUEST", "not_sent", "不接受 TLS 早期数据 / no TLS early data"},
	{500, "Internal", "GATEWAY_INTERNAL", "", "网关内部错误，以 outcome 为准 / internal error of the gateway; outcome tells"},
	{502, "BadGateway", "GATEWAY_UNREACHABLE", "", "GATEWAY_UNREACHABLE：无法连接平台，未发出，可以重试；GATEWAY_BAD_RESPONSE：应答不完整或无效，结果未知，先查询 / not sent, or outcome unknown: query before repeating"},
	{503, "Unwritten", "GATEWAY_WATCH_UNAVAILABLE", "not_sent", "watch：无法记录这笔资金操作，未发出 / the call could not be written down, and was not sent"},
	{504, "Timeout", "GATEWAY_TIMEOUT", "unknown", "平台未按时应答，结果未知，先查询 / no answer in time; the outcome is unknown, query before repeating"},
}

// watchedAnswers are the statuses that only a gateway with a watch gives, by the interfaces that move money back or on. Where
// there is a 409, the header Gateway-Guard-Override is read.
var watchedAnswers = map[string][]int{
	"/v1/netpay/refund":               {409, 503},
	"/v1/netpay/secure-cancel":        {409, 503},
	"/v1/netpay/bills/preauth-cancel": {409, 503},
	"/v1/netpay/secure-complete":      {503},
}

// member is one member of an object whose order matters to a reader.
type member struct {
	name  string
	value any
}

// ordered is an object that is written in its own order.
type ordered []member

func (o ordered) get(name string) any {
	for _, m := range o {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

func (o ordered) without(names ...string) ordered {
	return slices.DeleteFunc(slices.Clone(o), func(m member) bool { return slices.Contains(names, m.name) })
}

// readOrdered decodes JSON and keeps the order of members.
func readOrdered(d *json.Decoder) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		object := ordered{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			value, err := readOrdered(d)
			if err != nil {
				return nil, err
			}
			object = append(object, member{name.(string), value})
		}
		_, err = d.Token()
		return object, err
	case json.Delim('['):
		array := []any{}
		for d.More() {
			value, err := readOrdered(d)
			if err != nil {
				return nil, err
			}
			array = append(array, value)
		}
		_, err = d.Token()
		return array, err
	}
	return token, nil
}

// node makes YAML of it.
func node(value any) *yaml.Node {
	switch v := value.(type) {
	case ordered:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, m := range v {
			n.Content = append(n.Content, node(m.name), node(m.value))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		scalars := true
		for _, element := range v {
			child := node(element)
			scalars = scalars && child.Kind == yaml.ScalarNode
			n.Content = append(n.Content, child)
		}
		if scalars {
			n.Style = yaml.FlowStyle
		}
		return n
	case string:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v}
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: v.String()}
	}
	panic(fmt.Sprintf("%T in a schema", value))
}

// schemaFile reads one file of schema.
func schemaFile(t testing.TB, name string) ordered {
	t.Helper()
	content, err := schemaFiles.ReadFile("schema/" + name)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	value, err := readOrdered(decoder)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return value.(ordered)
}

func schemaNames(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("schema/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d schemas: %v", len(files), err)
	}
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}

// isAnswer tells a schema of what an app reads from one of what it sends.
func isAnswer(file string) bool {
	return strings.HasSuffix(file, ".response.json") || file == "notify.json" || file == "gateway.json"
}

// component names a file's schema: wx-app-pre-order.json is WxAppPreOrder, query.response.json QueryResult. QueryResponse
// is what generators call the operation's own type.
func component(file string) string {
	var b strings.Builder
	file = strings.Replace(file, ".response.json", "-result", 1)
	for word := range strings.FieldsFuncSeq(strings.TrimSuffix(file, ".json"), func(r rune) bool { return r == '-' || r == '.' }) {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}

// fenSchema is an amount of an answer.
var fenSchema = ordered{
	{"description", "金额，单位分；平台有时发数字，有时发文本 / an amount in fen; the platform sends a number here, a text there"},
	{"oneOf", []any{ordered{{"type", "integer"}, {"format", "int64"}}, ordered{{"type", "string"}}}},
}

// describedSchemas are a file's schema as openapi.yaml has it, and the schemas of the elements of its lists: a type without
// a name can hardly be written in Go.
func describedSchemas(file string, schema ordered) ordered {
	schema = described(schema, isAnswer(file)).(ordered)
	var elements ordered
	properties, _ := schema.get("properties").(ordered)
	for _, property := range properties {
		field := property.value.(ordered)
		for i, m := range field {
			if m.name == "items" {
				name := component(file) + strings.ToUpper(property.name[:1]) + property.name[1:] + "Item"
				elements = append(elements, member{name, m.value})
				field[i].value = ref("schemas", name)
			}
		}
	}
	return append(ordered{{component(file), schema}}, elements...)
}

// described is a part of a schema as openapi.yaml has it.
func described(value any, answer bool) any {
	switch value := value.(type) {
	case []any:
		var elements []any
		for _, element := range value {
			elements = append(elements, described(element, answer))
		}
		return elements
	case ordered:
		if types, ok := value.get("type").([]any); ok && answer {
			return wide(value, types)
		} else if ok {
			value = narrow(value, types[0].(string))
		}
		var object ordered
		for _, m := range value {
			object = append(object, member{m.name, described(m.value, answer)})
			// Some generators take 32 bits otherwise.
			if kind, _ := m.value.(string); m.name == "type" && formats[kind] != "" {
				object = append(object, member{"format", formats[kind]})
			}
		}
		return object
	}
	return value
}

var formats = map[string]string{"integer": "int64", "number": "double"}

// keywords are JSON Schema's for one type only, as far as the tables use them for fields of several.
var keywords = map[string][]string{
	"array":  {"items", "maxItems"},
	"object": {"required", "properties"},
	"string": {"minLength", "maxLength", "pattern", "contentMediaType"},
	"number": {"minimum", "maximum"},
}

// narrow is a field of one of its types.
func narrow(field ordered, to string) ordered {
	var narrowed ordered
	for _, m := range field {
		foreign := false
		for kind, names := range keywords {
			own := kind == to || kind == "number" && to == "integer"
			foreign = foreign || !own && slices.Contains(names, m.name)
		}
		switch m.name {
		case "type":
			m.value = to
		case "enum":
			foreign = to == "boolean" // which says it all
			m.value = slices.DeleteFunc(slices.Clone(m.value.([]any)), func(word any) bool {
				_, isText := word.(string)
				return isText != (to == "string")
			})
		}
		if !foreign {
			narrowed = append(narrowed, m)
		}
	}
	return narrowed
}

// wide is a field of any of its types.
func wide(field ordered, types []any) ordered {
	var about ordered
	for _, name := range []string{"description", "$comment"} {
		if text := field.get(name); text != nil {
			about = append(about, member{name, text})
		}
	}
	if slices.Equal(types, []any{"integer", "string"}) {
		return append(about, ref("schemas", "Fen")...)
	}
	var one []any
	for _, name := range types {
		as := narrow(field.without("description", "$comment"), name.(string))
		if name == "object" && as.get("properties") == nil {
			// What an app hands on, such as appPayRequest: without this ogen reads an object without members.
			as = append(as, member{"additionalProperties", true})
		}
		one = append(one, described(as, true))
	}
	return append(about, member{"oneOf", one})
}

func ref(kind, name string) ordered { return ordered{{"$ref", "#/components/" + kind + "/" + name}} }

func examples(list any) ordered {
	var named ordered
	for i, example := range list.([]any) {
		named = append(named, member{"example" + strconv.Itoa(i+1), ordered{{"value", example}}})
	}
	return named
}

func jsonContent(schema string, list any) ordered {
	media := ordered{{"schema", ref("schemas", schema)}}
	if list != nil {
		media = append(media, member{"examples", examples(list)})
	}
	return ordered{{"application/json", media}}
}

func openAPIDocument(t testing.TB) []byte {
	outcome := ordered{{"Gateway-Outcome", ref("headers", "GatewayOutcome")}}

	var paths ordered
	for _, operation := range operations {
		file := interfaces[operation.path].Schema
		schema := schemaFile(t, file)
		name := component(file)
		headers := outcome
		if watchedAnswers[operation.path] != nil || operation.path == "/v1/netpay/close" {
			headers = append(slices.Clone(outcome), member{"Gateway-Guard", ref("headers", "GatewayGuard")})
		}
		answers := ordered{{"200", ordered{
			{"description", "平台的应答，原样转交；errCode 为 SUCCESS 表示成功 / the platform's own answer"},
			{"headers", headers},
			{"content", jsonContent(component(operation.response), nil)},
		}}}
		for _, own := range ownAnswers {
			if (own.status == 409 || own.status == 503) && !slices.Contains(watchedAnswers[operation.path], own.status) {
				continue
			}
			answers = append(answers, member{strconv.Itoa(own.status), ref("responses", own.name)})
		}
		answers = append(answers, member{"default", ref("responses", "Platform")})
		post := ordered{
			{"summary", schema.get("title")},
			{"description", schema.get("description")},
			{"operationId", strings.ToLower(name[:1]) + name[1:]},
			{"tags", []any{operation.tag}},
		}
		if slices.Contains(watchedAnswers[operation.path], 409) {
			post = append(post, member{"parameters", []any{ref("parameters", "GatewayGuardOverride")}})
		}
		paths = append(paths, member{operation.path, ordered{{"post", append(post,
			member{"requestBody", ordered{{"required", true}, {"content", jsonContent(name, schema.get("examples"))}}},
			member{"responses", answers},
		)}}})
	}
	var tagList []any
	for _, tag := range tags {
		tagList = append(tagList, ordered{{"name", tag[0]}, {"description", tag[1]}})
	}

	var schemas ordered
	for _, file := range schemaNames(t) {
		schema := schemaFile(t, file)
		if target, ok := schema.get("$ref").(string); ok {
			// What stands beside a $ref is lost on many generators of clients.
			schema = append(schema.without("$ref"), member{"allOf", []any{ref("schemas", component(target))}})
		}
		schemas = append(schemas, describedSchemas(file, schema.without("$schema", "examples"))...)
	}
	schemas = append(schemas, member{"Fen", fenSchema}, member{"Outcome", ordered{
		{"title", "Gateway-Outcome"}, {"type", "string"}, {"enum", []any{"answered", "not_sent", "unknown"}},
	}})

	var responses ordered
	for _, own := range ownAnswers {
		headers := outcome
		switch own.status {
		case 405:
			headers = append(slices.Clone(outcome), member{"Allow", ordered{{"schema", ordered{{"type", "string"}, {"enum", []any{"POST"}}}}}})
		case 409, 503:
			headers = append(slices.Clone(outcome), member{"Retry-After", ordered{{"description", "秒 / seconds"}, {"schema", ordered{{"type", "integer"}}}}})
		}
		var list any
		for _, example := range schemaFile(t, "gateway.json").get("examples").([]any) {
			if example.(ordered).get("errCode") == own.code {
				list = []any{example}
			}
		}
		responses = append(responses, member{own.name, ordered{
			{"description", own.description}, {"headers", headers}, {"content", jsonContent("Gateway", list)},
		}})
	}
	responses = append(responses, member{"Platform", ordered{
		{"description", "平台以其他状态应答，原样转交；网关自己的应答见上 / the platform's own answer with another status"},
		{"headers", outcome},
	}})

	header := func(name, description string) any {
		return ordered{{"name", name}, {"in", "header"}, {"description", description}, {"schema", ordered{{"type", "string"}}}}
	}
	notify := schemaFile(t, "notify.json")
	document := ordered{
		{"openapi", "3.1.0"},
		{"info", ordered{
			{"title", "caddy-chinaums"},
			{"summary", "银联商务接口，经网关签名转发 / ChinaUMS through the signing gateway"},
			{"description", "商户应用可以通过 chinaums_proxy 调用的接口。应用发送普通 JSON，网关负责签名。金额单位为分。应答头 Gateway-Outcome 说明结果：" +
				"answered 平台已应答，not_sent 平台不可能收到（可以重试），unknown 可能已执行（先查询）。没有该应答头时按 unknown 处理。\n" +
				"What a merchant's app can call through chinaums_proxy: plain JSON, signed by the gateway. Amounts are in fen. Fields that are in no table pass."},
			{"version", "1.0.0"},
			{"license", ordered{{"name", "Apache-2.0"}, {"identifier", "Apache-2.0"}}},
		}},
		{"servers", []any{ordered{
			{"url", "http://{gateway}"}, {"description", "网关 / the gateway"},
			{"variables", ordered{{"gateway", ordered{{"default", "127.0.0.1:8901"}}}}},
		}}},
		{"security", []any{ordered{}, ordered{{"token", []any{}}}}},
		{"tags", tagList},
		{"paths", paths},
		{"webhooks", ordered{{"notify", ordered{{"post", ordered{
			{"summary", notify.get("title")},
			{"description", notify.get("description")},
			{"operationId", "notify"},
			{"tags", []any{"通知"}},
			{"security", []any{}},
			{"parameters", []any{
				header("Ce-Id", "事件的标识：同一事实只有一个，重发时不变；用于去重 / names the fact: the same for a repeated notify"),
				header("Ce-Type", "com.chinaums.payment.succeeded 等"),
				header("Ce-Source", "/chinaums/<merchant>"),
				header("Ce-Subject", "merOrderId（账单为 billNo）"),
				header("Ce-Time", "RFC 3339"),
			}},
			{"requestBody", ordered{{"required", true}, {"content", jsonContent("Notify", notify.get("examples"))}}},
			{"responses", ordered{
				{"200", ordered{{"description", "已受理：网关向平台应答 SUCCESS / taken"}}},
				{"default", ordered{{"description", "未受理：平台会重发 / not taken; the platform repeats it"}}},
			}},
		}}}}}},
		{"components", ordered{
			{"securitySchemes", ordered{{"token", ordered{{"type", "http"}, {"scheme", "bearer"}, {"description", "网关设置了 token 时 / where the gateway asks for one"}}}}},
			{"parameters", ordered{{"GatewayGuardOverride", header("Gateway-Guard-Override",
				"watch：填挡住的那个号（见 errMsg），即可放行，并记入日志 / the number that is in the way, as errMsg names it: the call passes, and is logged")}}},
			{"headers", ordered{
				{"GatewayOutcome", ordered{
					{"description", "answered 平台已应答；not_sent 平台不可能收到，可以重试；unknown 可能已执行，先查询"},
					{"required", true},
					{"schema", ref("schemas", "Outcome")},
				}},
				{"GatewayGuard", ordered{
					{"description", "watch：unseen 该订单没有经过网关，无从核对 / no gateway has seen the order, and there was nothing to check"},
					{"schema", ordered{{"type", "string"}, {"enum", []any{"unseen"}}}},
				}},
			}},
			{"responses", responses},
			{"schemas", schemas},
		}},
	}
	var b bytes.Buffer
	b.WriteString("# Made of the files in schema by openapi_test.go; do not edit.\n")
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(node(document)); err != nil {
		t.Fatal(err)
	}
	if err := encoder.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestOpenAPIIsMadeOfTheSchemas(t *testing.T) {
	want := openAPIDocument(t)
	if os.Getenv("UPDATE_OPENAPI") != "" {
		if err := os.WriteFile(openAPIFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(openAPIFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the schemas make: UPDATE_OPENAPI=1 go test -run TestOpenAPI .", openAPIFile)
	}
}

// openAPI reads the file as a client's generator would: as a document that knows nothing of how it was made.
func openAPI(t testing.TB) map[string]any {
	t.Helper()
	content, err := os.ReadFile(openAPIFile)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := yaml.Unmarshal(content, &document); err != nil {
		t.Fatal(err)
	}
	// Through JSON, so that what YAML would read as a date or a number shows.
	asJSON, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return plain.(map[string]any)
}

func dig(t testing.TB, value any, names ...string) any {
	t.Helper()
	for i, name := range names {
		object, _ := value.(map[string]any)
		if value = object[name]; value == nil {
			t.Fatalf("no %s", strings.Join(names[:i+1], "."))
		}
	}
	return value
}

func TestOpenAPIStructure(t *testing.T) {
	document := openAPI(t)
	if got := dig(t, document, "openapi"); got != "3.1.0" {
		t.Errorf("openapi %v", got)
	}
	for _, name := range []string{"title", "version", "description"} {
		dig(t, document, "info", name)
	}
	declared := make(map[any]bool)
	for _, tag := range dig(t, document, "tags").([]any) {
		declared[dig(t, tag, "name")] = true
	}
	ids := make(map[any]bool)
	paths := dig(t, document, "paths").(map[string]any)
	for path := range interfaces {
		post := dig(t, paths, path, "post").(map[string]any)
		for _, name := range []string{"summary", "description", "operationId"} {
			dig(t, post, name)
		}
		if ids[post["operationId"]] {
			t.Errorf("%v twice", post["operationId"])
		}
		ids[post["operationId"]] = true
		if tags, _ := post["tags"].([]any); len(tags) != 1 || !declared[tags[0]] {
			t.Errorf("%s: tags %v", path, tags)
		}
		if dig(t, post, "requestBody", "required") != true {
			t.Errorf("%s: the body is not required", path)
		}
		responses := dig(t, post, "responses").(map[string]any)
		statuses := slices.Sorted(maps.Keys(responses))
		want := strings.Fields("200 400 403 404 405 413 415 422 425 500 502 504 default")
		for _, status := range watchedAnswers[path] {
			want = append(want, strconv.Itoa(status))
		}
		slices.Sort(want)
		if !slices.Equal(statuses, want) {
			t.Errorf("%s: answers %v, want %v", path, statuses, want)
		}
		for status, response := range responses {
			if to, ok := response.(map[string]any)["$ref"].(string); ok {
				response = resolve(t, document, to)
			}
			dig(t, response, "description")
			if dig(t, response, "headers", "Gateway-Outcome", "$ref") != "#/components/headers/GatewayOutcome" {
				t.Errorf("%s %s: no Gateway-Outcome", path, status)
			}
		}
	}
	if len(paths) != len(interfaces) {
		t.Errorf("%d paths, %d interfaces", len(paths), len(interfaces))
	}
}

func resolve(t testing.TB, document map[string]any, to string) any {
	t.Helper()
	local, ok := strings.CutPrefix(to, "#/")
	if !ok {
		t.Fatalf("$ref %s leaves the file", to)
	}
	return dig(t, document, strings.Split(local, "/")...)
}

// TestOpenAPIReferences: every reference has a target, and every schema is reached from a path or the notify.
func TestOpenAPIReferences(t *testing.T) {
	document := openAPI(t)
	reached := make(map[string]bool)
	var follow func(any)
	follow = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			if to, ok := value["$ref"].(string); ok && !reached[to] {
				reached[to] = true
				follow(resolve(t, document, to))
			}
			for _, child := range value {
				follow(child)
			}
		case []any:
			for _, child := range value {
				follow(child)
			}
		}
	}
	follow(document["paths"])
	follow(document["webhooks"])
	schemas := dig(t, document, "components", "schemas").(map[string]any)
	for _, file := range schemaNames(t) {
		if !reached["#/components/schemas/"+component(file)] {
			t.Errorf("%s is used nowhere", file)
		}
	}
	for name := range schemas {
		if !reached["#/components/schemas/"+name] {
			t.Errorf("schema %s is used nowhere", name)
		}
	}
	for _, kind := range []string{"responses", "headers", "parameters"} {
		for name := range dig(t, document, "components", kind).(map[string]any) {
			if !reached["#/components/"+kind+"/"+name] {
				t.Errorf("%s: %s is used nowhere", kind, name)
			}
		}
	}
}

// TestOpenAPIExamples holds every example against the schema that stands beside it, with the schemas as they are in the
// document.
func TestOpenAPIExamples(t *testing.T) {
	document := openAPI(t)
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	if err := compiler.AddResource("schema:///openapi", document); err != nil {
		t.Fatal(err)
	}
	compiled := make(map[string]*jsonschema.Schema)
	for name := range dig(t, document, "components", "schemas").(map[string]any) {
		schema, err := compiler.Compile("schema:///openapi#/components/schemas/" + name)
		if err != nil {
			t.Fatal(err)
		}
		compiled["#/components/schemas/"+name] = schema
	}
	held := 0
	var visit func(any)
	visit = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			if named, ok := value["examples"].(map[string]any); ok {
				to := dig(t, value, "schema", "$ref").(string)
				for _, example := range named {
					held++
					if err := compiled[to].Validate(dig(t, example, "value")); err != nil {
						t.Errorf("%s: %v", to, err)
					}
				}
			}
			for _, child := range value {
				visit(child)
			}
		case []any:
			for _, child := range value {
				visit(child)
			}
		}
	}
	visit(document)
	if held < len(interfaces)+2 {
		t.Errorf("only %d examples", held)
	}
	if err := compiled["#/components/schemas/QmfOrder"].Validate(map[string]any{"mid": "898340149000005"}); err == nil {
		t.Error("a body that lacks everything passes")
	}

	t.Run("the gateway's own answers", func(t *testing.T) {
		for _, own := range ownAnswers {
			answer := &outbound.Error{Status: own.status, Code: own.code, Outcome: outbound.NotSent, Chinese: "中文", English: "English"}
			if own.outcome == "unknown" {
				answer.Outcome = outbound.Unknown
			}
			if own.status == 422 {
				answer.Fields = []fields.Error{{Name: "mid", Rule: "required", Message: "缺少 mid / mid is missing"}}
			}
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(envelope(answer)))
			if err != nil {
				t.Fatal(err)
			}
			if err := compiled["#/components/schemas/Gateway"].Validate(value); err != nil {
				t.Errorf("%d: %v", own.status, err)
			}
		}
	})
}

// TestOpenAPINames: no schema has a name that a generator gives to an operation's own types.
func TestOpenAPINames(t *testing.T) {
	document := openAPI(t)
	for name := range dig(t, document, "components", "schemas").(map[string]any) {
		for _, operation := range dig(t, document, "paths").(map[string]any) {
			id := dig(t, operation, "post", "operationId").(string)
			for _, taken := range []string{"Response", "Res", "Request", "JSONRequestBody", "Data", "Error", "Errors", "Responses", "OK", "Params"} {
				if strings.EqualFold(name, id+taken) {
					t.Errorf("%s is the name of %s's own type", name, id)
				}
			}
		}
	}
}

// TestOpenAPIHasOneTypeEach: oapi-codegen and ogen refuse a list of types, which 63 fields had.
func TestOpenAPIHasOneTypeEach(t *testing.T) {
	var visit func(string, any)
	visit = func(at string, value any) {
		switch value := value.(type) {
		case map[string]any:
			if types, ok := value["type"].([]any); ok {
				t.Errorf("%s: type %v", at, types)
			}
			for name, child := range value {
				visit(at+"/"+name, child)
			}
		case []any:
			for i, child := range value {
				visit(fmt.Sprintf("%s/%d", at, i), child)
			}
		}
	}
	visit("", dig(t, openAPI(t), "components"))
}

// fieldProbes are values of fields, right and wrong ones.
var fieldProbes = func() string {
	values := []string{
		"-1", "0", "1", "2", "3", "6", "12", "100", "100000000", "100000001", "1.5", "-0.5", "null", "true", "false", "{}", "[]", `[1]`, `[""]`,
		`"0"`, `"00"`, `"1"`, `"3"`, `"100000000"`, `"100000001"`, `"1.0"`, `"-1"`, `"true"`, `"false"`, `"yes"`, `"balance"`, `"creditCard"`,
		`"2022-04-15 10:42:59"`, `"2022-13-15 10:42:59"`, `"20220415104259"`, `"2022-04-15"`, `"2022-04-32"`, `"中文"`,
		`{"foodOrderType":"pre_order"}`, `{"foodOrderType":1}`, "[" + strings.Repeat("{},", 19) + "{}]", "[" + strings.Repeat("{},", 20) + "{}]",
	}
	for _, length := range []int{0, 1, 2, 5, 6, 7, 8, 11, 12, 15, 31, 32, 33, 64, 65, 255, 256, 1024, 1025} {
		values = append(values, `"`+strings.Repeat("a", length)+`"`)
	}
	return "[" + strings.Join(values, ",") + "]"
}()

// TestOpenAPISchemasAreTheTables: a call that fits what a client's generator reads fits what the guard holds it against, and
// only another way to write a value is left out; an answer's field takes no more and no less than its table.
func TestOpenAPISchemasAreTheTables(t *testing.T) {
	document := openAPI(t)
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	if err := compiler.AddResource("schema:///openapi", document); err != nil {
		t.Fatal(err)
	}
	tables := make(map[string]map[string]any)
	for _, file := range schemaNames(t) {
		content, err := schemaFiles.ReadFile("schema/" + file)
		if err != nil {
			t.Fatal(err)
		}
		table, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		tables[file] = table.(map[string]any)
		if err := compiler.AddResource("schema:///"+file, table); err != nil {
			t.Fatal(err)
		}
	}
	values, err := jsonschema.UnmarshalJSON(strings.NewReader(fieldProbes))
	if err != nil {
		t.Fatal(err)
	}
	accepts := func(pointer string, value any) bool {
		t.Helper()
		schema, err := compiler.Compile("schema:///" + pointer)
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(value) == nil
	}
	held := 0
	// hold compares the schemas of one value, given with their pointers.
	var hold func(table map[string]any, tableAt string, described map[string]any, at string, answer bool)
	hold = func(table map[string]any, tableAt string, described map[string]any, at string, answer bool) {
		if to, ok := described["$ref"].(string); ok && !strings.HasSuffix(to, "/Fen") {
			described, at = resolve(t, document, to).(map[string]any), "openapi"+to
		}
		if alternatives, ok := described["oneOf"].([]any); ok && table["properties"] != nil {
			described, at = alternatives[0].(map[string]any), at+"/oneOf/0"
		}
		for _, keyword := range []string{"title", "required"} {
			if !reflect.DeepEqual(table[keyword], described[keyword]) {
				t.Errorf("%s: %s %v, in the table %v", at, keyword, described[keyword], table[keyword])
			}
		}
		properties, _ := table["properties"].(map[string]any)
		of, _ := described["properties"].(map[string]any)
		if want, got := slices.Sorted(maps.Keys(properties)), slices.Sorted(maps.Keys(of)); !slices.Equal(want, got) {
			t.Errorf("%s has %v, its table %v", at, got, want)
			return
		}
		for name, property := range properties {
			property, field := property.(map[string]any), of[name].(map[string]any)
			propertyAt, fieldAt := tableAt+"/properties/"+name, at+"/properties/"+name
			if property["description"] != field["description"] {
				t.Errorf("%s: description %v, in the table %v", fieldAt, field["description"], property["description"])
			}
			for _, value := range values.([]any) {
				byTable, byDocument := accepts(propertyAt, value), accepts(fieldAt, value)
				if byTable == byDocument {
					continue
				}
				// The documents' own type stands first in the table.
				types, _ := property["type"].([]any)
				own := len(types) == 0 || jsonKind(value) == types[0] || jsonKind(value) == "integer" && types[0] == "number"
				if answer || !byTable || own {
					t.Errorf("%s takes %.60v: %v, its table %v", fieldAt, value, byDocument, byTable)
				}
			}
			held++
			if items, ok := property["items"].(map[string]any); ok {
				hold(items, propertyAt+"/items", field["items"].(map[string]any), fieldAt+"/items", answer)
			} else if property["properties"] != nil {
				hold(property, propertyAt, field, fieldAt, answer)
			}
		}
	}
	for file, table := range tables {
		answer := strings.Contains(file, "response") || file == "gateway.json" || file == "notify.json"
		name := component(file)
		hold(table, file+"#", dig(t, document, "components", "schemas", name).(map[string]any), "openapi#/components/schemas/"+name, answer)
	}
	if held < 300 {
		t.Errorf("only %d fields", held)
	}
}

func jsonKind(value any) string {
	switch value := value.(type) {
	case string:
		return "string"
	case bool:
		return "boolean"
	case json.Number:
		if _, err := value.Int64(); err == nil {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	}
	return "null"
}

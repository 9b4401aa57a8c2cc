package chinaums

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
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
	{422, "Invalid", "GATEWAY_INVALID", "not_sent", "validate reject：字段不符合接口文档，见 fields / fields do not fit the documents, see fields"},
	{425, "EarlyData", "GATEWAY_BAD_REQUEST", "not_sent", "不接受 TLS 早期数据 / no TLS early data"},
	{500, "Internal", "GATEWAY_INTERNAL", "", "网关内部错误，以 outcome 为准 / internal error of the gateway; outcome tells"},
	{502, "BadGateway", "GATEWAY_UNREACHABLE", "", "GATEWAY_UNREACHABLE：无法连接平台，未发出，可以重试；GATEWAY_BAD_RESPONSE：应答不完整或无效，结果未知，先查询 / not sent, or outcome unknown: query before repeating"},
	{504, "Timeout", "GATEWAY_TIMEOUT", "unknown", "平台未按时应答，结果未知，先查询 / no answer in time; the outcome is unknown, query before repeating"},
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

// component names a file's schema: wx-app-pre-order.json is WxAppPreOrder, order.response.json OrderResponse.
func component(file string) string {
	var b strings.Builder
	for word := range strings.FieldsFuncSeq(strings.TrimSuffix(file, ".json"), func(r rune) bool { return r == '-' || r == '.' }) {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
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
		answers := ordered{{"200", ordered{
			{"description", "平台的应答，原样转交；errCode 为 SUCCESS 表示成功 / the platform's own answer"},
			{"headers", outcome},
			{"content", jsonContent(component(operation.response), nil)},
		}}}
		for _, own := range ownAnswers {
			answers = append(answers, member{strconv.Itoa(own.status), ref("responses", own.name)})
		}
		answers = append(answers, member{"default", ref("responses", "Platform")})
		paths = append(paths, member{operation.path, ordered{{"post", ordered{
			{"summary", schema.get("title")},
			{"description", schema.get("description")},
			{"operationId", strings.ToLower(name[:1]) + name[1:]},
			{"tags", []any{operation.tag}},
			{"requestBody", ordered{{"required", true}, {"content", jsonContent(name, schema.get("examples"))}}},
			{"responses", answers},
		}}}})
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
		schemas = append(schemas, member{component(file), schema.without("$schema", "examples")})
	}

	var responses ordered
	for _, own := range ownAnswers {
		headers := outcome
		if own.status == 405 {
			headers = append(slices.Clone(outcome), member{"Allow", ordered{{"schema", ordered{{"type", "string"}, {"const", "POST"}}}}})
		}
		var list any
		if own.status == 422 {
			list = schemaFile(t, "gateway.json").get("examples")
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
				header("Ce-Id", "通知的标识，重发时不变；用于去重 / the same for a repeated notify"),
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
			{"headers", ordered{{"GatewayOutcome", ordered{
				{"description", "answered 平台已应答；not_sent 平台不可能收到，可以重试；unknown 可能已执行，先查询"},
				{"required", true},
				{"schema", ordered{{"type", "string"}, {"enum", []any{"answered", "not_sent", "unknown"}}}},
			}}}},
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
		if want := strings.Fields("200 400 403 404 405 413 415 422 425 500 502 504 default"); !slices.Equal(statuses, want) {
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
	if len(schemas) != len(schemaNames(t)) {
		t.Errorf("%d schemas of %d files", len(schemas), len(schemaNames(t)))
	}
	for name := range dig(t, document, "components", "responses").(map[string]any) {
		if !reached["#/components/responses/"+name] {
			t.Errorf("response %s is used nowhere", name)
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

// TestOpenAPISchemasAreTheTables: what a client's generator reads is what the guard holds calls against.
func TestOpenAPISchemasAreTheTables(t *testing.T) {
	document := openAPI(t)
	for _, file := range schemaNames(t) {
		content, err := schemaFiles.Open("schema/" + file)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		var table map[string]any
		if err := json.Unmarshal(raw, &table); err != nil {
			t.Fatal(err)
		}
		described := dig(t, document, "components", "schemas", component(file)).(map[string]any)
		for _, keyword := range []string{"title", "type", "required", "properties"} {
			want, err := json.Marshal(table[keyword])
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(described[keyword])
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: %s differs", file, keyword)
			}
		}
	}
}

package sandbox

import (
	"cmp"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// call is a verified call of an interface.
type call struct {
	fields
	path  string
	now   time.Time
	fault FaultKind // of NoOrder, RefuseExecuted and OtherOrder
}

// answer is what an interface answers, on top of what all have in common.
type answer map[string]any

// An iface is one of the platform's interfaces. It runs with c.mu held.
type iface struct {
	required []string // beside requestTimestamp, mid and tid
	serve    func(c *ChinaUMS, in call) (answer, *failure)
}

// orderFields are what most interfaces ask for.
var orderFields = []string{"merOrderId", "instMid"}

// interfaces are the documents' rows SYS-01, 03 and 05 to 16, and six that no document describes but public SDKs call:
// two of WeChat and four of bills. What those take and answer is what these SDKs send and read.
var interfaces = map[string]iface{
	"/v1/netpay/wx/app-pre-order":     {append(orderFields, "tradeType"), (*ChinaUMS).serveOrder},
	"/v1/netpay/wx/unified-order":     {orderFields, (*ChinaUMS).serveOrder},
	"/v1/netpay/wx/mini-pre-order":    {orderFields, (*ChinaUMS).serveOrder},
	"/v1/netpay/trade/precreate":      {orderFields, (*ChinaUMS).serveOrder},
	"/v1/netpay/qmf/order":            {append(orderFields, "merchantUserId", "mobile"), (*ChinaUMS).serveOrder},
	"/v1/netpay/uac/app-order":        {orderFields, (*ChinaUMS).serveOrder},
	"/v1/netpay/applepay/order":       {orderFields, (*ChinaUMS).serveOrder},
	"/v1/netpay/trade/app-pre-order":  {orderFields, (*ChinaUMS).serveOrder},
	"/v1/netpay/query":                {nil, (*ChinaUMS).serveQuery},
	"/v1/netpay/refund":               {append(orderFields, "refundAmount"), (*ChinaUMS).serveRefund},
	"/v1/netpay/refund-query":         {[]string{"merOrderId"}, (*ChinaUMS).serveRefundQuery},
	"/v1/netpay/secure-cancel":        {orderFields, (*ChinaUMS).serveSecureCancel},
	"/v1/netpay/secure-complete":      {append(orderFields, "completedAmount"), (*ChinaUMS).serveSecureComplete},
	"/v1/netpay/close":                {orderFields, (*ChinaUMS).serveClose},
	"/v1/netpay/bills/get-qrcode":     {[]string{"instMid", "billNo", "billDate"}, (*ChinaUMS).serveBill},
	"/v1/netpay/bills/query":          {[]string{"billNo", "billDate"}, (*ChinaUMS).serveBillQuery},
	"/v1/netpay/bills/refund":         {[]string{"instMid", "billNo", "billDate", "refundAmount"}, (*ChinaUMS).serveBillRefund},
	"/v1/netpay/bills/close-qrcode":   {[]string{"instMid"}, (*ChinaUMS).serveCloseQRCode},
	"/v1/netpay/bills/preauth-cancel": {[]string{"instMid"}, (*ChinaUMS).servePreauthCancel},
}

// serveAPI records the call, authenticates it, runs it and answers it.
func (c *ChinaUMS) serveAPI(w http.ResponseWriter, r *http.Request) {
	body, recorded := c.receive(r, c.options.MaxBody)
	var fault Fault // none is one that does nothing
	if taken := c.fault(r.URL.Path, recorded.Body); taken != nil {
		fault = *taken
		if instead, done := c.instead(&fault, r); done {
			c.answered(recorded, &instead)
			c.write(w, instead, len(instead.body))
			return
		}
	}
	var out reply
	if int64(len(body)) > c.options.MaxBody {
		out = c.refuse(http.StatusRequestEntityTooLarge, fail("BAD_REQUEST", "报文过大"), nil)
	} else {
		out = c.execute(r, body, fault)
	}
	if fault.Kind == Lie {
		fault.lie(&out)
	}
	c.answered(recorded, &out)
	if out.status == http.StatusOK {
		c.sign(out.header, c.options.Answers, out.body)
	}
	out.body = fault.lose(r.Context(), c.ctx.Done(), out.body, func(answer []byte, bytes int) {
		c.write(w, reply{status: out.status, header: out.header, body: answer}, bytes)
	})
	switch fault.Kind {
	case FalseSignature:
		c.sign(out.header, AnswersFalselySigned, out.body)
	case SkewedDate:
		out.header.Set("Date", c.options.Now().Add(fault.For).UTC().Format(http.TimeFormat))
	}
	c.write(w, out, len(out.body))
}

// fault takes the fault that strikes a call.
func (c *ChinaUMS) fault(path string, body []byte) *Fault {
	if c.healthy() {
		return nil
	}
	s := subject{path: path, query: strings.HasSuffix(path, "query")}
	in, err := parseFields(body)
	if err != nil {
		return c.take(s)
	}
	for _, name := range []string{"merOrderId", "refundOrderId", "billNo", "qrCodeId", "targetOrderId"} {
		if in.has(name) {
			s.numbers = append(s.numbers, in.text(name))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o, r := c.named(cmp.Or(in.text("refundOrderId"), in.text("merOrderId"), in.text("billNo")))
	if o == nil {
		o = c.byTarget[in.text("targetOrderId")]
	}
	switch {
	case o == nil:
		return c.take(s)
	case r == nil && path == "/v1/netpay/refund-query" && len(o.refunds) > 0:
		r = o.refunds[len(o.refunds)-1]
	}
	s.numbers = append(s.numbers, o.number, o.billNo)
	made := o.created
	if r != nil {
		s.numbers, made = append(s.numbers, r.number), r.created
	}
	s.age = c.now().Sub(made)
	return c.take(s)
}

// instead is what a fault answers to a call that is not executed.
func (c *ChinaUMS) instead(fault *Fault, r *http.Request) (reply, bool) {
	switch fault.Kind {
	case Refuse:
		return c.refuse(http.StatusOK, fail(cmp.Or(fault.Code, "INTERNAL_ERROR"), "沙箱按要求拒绝"), nil), true
	case Unauthorized:
		return c.refuse(http.StatusUnauthorized, fail("INVALID_TOKEN", "accessToken无效或已过期"), nil), true
	}
	status, page, ok := fault.instead(r.Context(), c.ctx.Done())
	return reply{status: status, body: page, header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}}, ok
}

// answered adds the answer to what was recorded of the call.
func (c *ChinaUMS) answered(recorded *Call, out *reply) {
	if out.header == nil {
		out.header = make(http.Header)
	}
	c.mu.Lock()
	recorded.Status, recorded.ErrCode, recorded.Warning = out.status, out.code, out.warning
	c.mu.Unlock()
	if out.warning != "" {
		c.warnings.add(recorded.Path + ": " + out.warning)
	}
}

// reply is an answer, not yet written.
type reply struct {
	status  int
	header  http.Header
	body    []byte
	code    string // the errCode
	warning string // what the documents want otherwise
}

// execute authenticates a call and runs it.
func (c *ChinaUMS) execute(r *http.Request, body []byte, fault Fault) (out reply) {
	known, found := interfaces[r.URL.Path]
	if _, link := links[r.URL.Path]; link && r.Method == http.MethodGet {
		return c.follow(r.URL.Path, r.URL.RawQuery)
	}
	if r.Method != http.MethodPost {
		refused := c.refuse(http.StatusMethodNotAllowed, fail("BAD_REQUEST", "请使用POST"), nil)
		refused.header = http.Header{"Allow": {http.MethodPost}}
		return refused
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return c.refuse(http.StatusOK, fail("BAD_REQUEST", "Content-Type应为application/json"), nil)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.Path == "/v1/token/access" {
		return c.serveToken(body)
	}
	if status, failed := c.authenticate(r.Header, body); failed != nil {
		return c.refuse(status, failed, nil)
	}
	if !found {
		return c.refuse(http.StatusOK, fail("NO_SERVICE", "没有能处理请求的服务"), nil)
	}
	in := call{path: r.URL.Path, now: c.now(), fault: fault.Kind}
	var err error
	if in.fields, err = parseFields(body); err != nil {
		return c.refuse(http.StatusOK, fail("BAD_REQUEST", "请求报文不是JSON对象"), nil)
	}
	defer func() { out.warning = in.warning() }()
	if failed := c.common(in, known.required); failed != nil {
		return c.refuse(http.StatusOK, failed, in.fields)
	}
	if fault.Kind == NoOrder {
		return c.refuse(http.StatusOK, errNoOrder(), in.fields)
	}
	answer, failed := known.serve(c, in)
	if failed == nil && fault.Kind == RefuseExecuted {
		failed = fail(cmp.Or(fault.Code, "TARGET_FAIL"), "沙箱按要求在执行后报错")
	}
	if failed != nil {
		return c.refuse(http.StatusOK, failed, in.fields)
	}
	return c.reply(http.StatusOK, "SUCCESS", "", answer, in.fields)
}

// authenticate verifies the Authorization header. The status is 401 only for a token that is not valid (any more).
func (c *ChinaUMS) authenticate(header http.Header, body []byte) (int, *failure) {
	values := header.Values("Authorization")
	if len(values) != 1 {
		return http.StatusOK, fail("BAD_SIGN", "应有且仅有一个Authorization头")
	}
	parsed, err := parseAuthorization(values[0])
	if err != nil {
		return http.StatusOK, fail("BAD_SIGN", "Authorization头格式错误")
	}
	switch parsed.scheme {
	case schemeBody:
		values := parsed.values
		signed := signedCall{values["AppId"], values["Timestamp"], values["Nonce"], values["Signature"]}
		return http.StatusOK, c.check(signed, func() string {
			return bodySignature(c.options.AppID, c.options.AppKey, signed.timestamp, signed.nonce, body)
		})
	case schemeToken:
		return c.checkToken(parsed)
	}
	return http.StatusOK, fail("BAD_SIGN", "不支持的认证方式")
}

// common checks what every interface asks for.
func (c *ChinaUMS) common(in call, required []string) *failure {
	for _, name := range slices.Concat([]string{"requestTimestamp", "mid", "tid"}, required) {
		if !in.has(name) {
			return fail("BAD_REQUEST", "缺少%s", name)
		}
	}
	if _, _, failed := in.clock("requestTimestamp"); failed != nil && !in.bareTimestamp() {
		return failed
	}
	for name, length := range map[string][2]int{"mid": {8, 32}, "tid": {2, 32}, "instMid": {8, 32}} {
		text, failed := in.limited(name, length[1])
		if failed != nil {
			return failed
		}
		if in.has(name) && len(text) < length[0] {
			return fail("BAD_REQUEST", "%s少于%d个字符", name, length[0])
		}
	}
	for name, most := range map[string]int{"msgId": 64, "srcReserve": 255} {
		if _, failed := in.limited(name, most); failed != nil {
			return failed
		}
	}
	if in.text("mid") != c.options.MID {
		return fail("NO_MERCHANT", "找不到请求指定的商户")
	}
	return nil
}

// refuse answers an error. The platform's second envelope, with errInfo, is that of its gateway; both do no harm.
func (c *ChinaUMS) refuse(status int, failed *failure, request fields) reply {
	return c.reply(status, failed.code, failed.message, answer{"errInfo": failed.message}, request)
}

// reply puts an answer together. msgId, srcReserve, mid, tid and instMid come back as they were sent.
func (c *ChinaUMS) reply(status int, code, message string, out answer, request fields) reply {
	object := map[string]any{"errCode": code, "responseTimestamp": clockText(c.now())}
	if message != "" {
		object["errMsg"] = message
	}
	for _, name := range []string{"msgId", "srcReserve", "mid", "tid", "instMid"} {
		if value, sent := request[name]; sent {
			object[name] = value
		}
	}
	for name, value := range out {
		object[name] = plain(value, c.options.StringAmounts)
	}
	body, err := json.Marshal(object)
	if err != nil { // plain values only
		panic(err)
	}
	return reply{status: status, body: body, code: code}
}

// plain turns amounts into numbers or strings, at any depth.
func plain(value any, asText bool) any {
	switch value := value.(type) {
	case fen:
		if asText {
			return fmt.Sprint(int64(value))
		}
		return int64(value)
	case answer:
		object := make(map[string]any, len(value))
		for name, inner := range value {
			object[name] = plain(inner, asText)
		}
		return object
	}
	return value
}

// sign writes the answer's Authorization header, if the platform signs its answers.
func (c *ChinaUMS) sign(header http.Header, how AnswerSigning, body []byte) {
	if how == AnswersUnsigned {
		return
	}
	timestamp, nonce := c.options.Now().In(zone).Format(stampLayout), randomHex(16)
	key := c.options.AppKey
	if how == AnswersFalselySigned {
		key += "x"
	}
	header.Set("Authorization", formatAuthorization(c.options.AppID, timestamp, nonce,
		bodySignature(c.options.AppID, key, timestamp, nonce, body)))
}

// write sends an answer, or the first bytes of its body.
func (c *ChinaUMS) write(w http.ResponseWriter, out reply, bytes int) {
	for name, values := range out.header {
		w.Header()[name] = values
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(out.body)))
	w.WriteHeader(out.status)
	_, _ = w.Write(out.body[:bytes])
	if bytes < len(out.body) {
		_ = http.NewResponseController(w).Flush()
	}
}

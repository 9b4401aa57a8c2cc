"""A merchant app behind the gateway: Python 3.9 or newer, nothing else. Settings come from the environment."""
import base64, hmac, http.client, http.server, json, os, sqlite3, threading, time, urllib.parse
ENV, SECRET = os.environ, os.environ["APP_SECRET"]
KEY = base64.b64decode(SECRET[6:]) if SECRET.startswith("whsec_") else SECRET.encode()
RANK = {"new": 0, "NEW_ORDER": 1, "WAIT_BUYER_PAY": 2, "PROCESSING": 2, "TRADE_CLOSED": 3, "FAIL": 3,
        "TRADE_SUCCESS": 4, "SUCCESS": 4, "success": 4, "TRADE_REFUND": 5}
LOCK, DB = threading.Lock(), sqlite3.connect(ENV["BOOK"], check_same_thread=False)  # the app's own record
DB.execute("CREATE TABLE IF NOT EXISTS entry (number PRIMARY KEY, refund_of, amount, status)")
DB.execute("CREATE TABLE IF NOT EXISTS handled (event PRIMARY KEY)")
def entry(number):  # order (of a refund), amount in fen, status
    return DB.execute("SELECT refund_of, amount, status FROM entry WHERE number = ?", (number,)).fetchone()

def call(path, fields):  # one call through the gateway: outcome, answer
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() + 8 * 3600))
    fields = {"requestTimestamp": now, "mid": ENV["UMS_MID"], "tid": ENV["UMS_TID"], "instMid": "APPDEFAULT", **fields}
    gateway = http.client.HTTPConnection(ENV["GATEWAY"], timeout=25)  # longer than the gateway's own timeout
    try:
        gateway.request("POST", "/v1/netpay/" + path, json.dumps(fields), {"Content-Type": "application/json"})
        return (answer := gateway.getresponse()).getheader("Gateway-Outcome", "unknown"), dict(json.load(answer))
    except (OSError, ValueError, TypeError, http.client.HTTPException):
        return "unknown", {}  # it may have been executed

def learn(number, said):  # takes in what the platform says; False if that is not what the record says
    order, amount, before = entry(number) or (None, None, None)
    name, money, status = ("merOrderId", said.get("totalAmount"), said.get("status")) if order is None else (
        "refundOrderId", said.get("refundAmount", amount),  # refund-query does not repeat the amount
        said.get("refundStatus", "SUCCESS" if "refundPayTime" in said else None))
    if before is None or said.get(name) != number or said.get("merOrderId", number) not in (number, order) or (
            str(money), said.get("mid")) != (str(amount), ENV["UMS_MID"]):
        return False
    if RANK.get(status, 0) > RANK[before]:  # only forward: late news change nothing. Ship here: it is done once
        DB.execute("UPDATE entry SET status = ? WHERE number = ?", (status, number))
    return True

def notify(headers, body):  # without the signature (Standard Webhooks) whoever comes here could say "paid"
    event, sent, given = (headers.get("Webhook-" + name, "") for name in ("Id", "Timestamp", "Signature"))
    want = b"v1," + base64.b64encode(hmac.digest(KEY, f"{event}.{sent}.".encode() + body, "sha256"))
    good = [hmac.compare_digest(want, one.encode()) for one in given.split(" ")]  # several, while the secret changes
    if not KEY or not any(good) or not sent.isdecimal() or abs(time.time() - int(sent)) > 300:
        return 401
    said = json.loads(body)
    with LOCK, DB:
        handled = DB.execute("SELECT 1 FROM handled WHERE event = ?", (event,)).fetchone()
        if not handled and not learn(said.get("refundOrderId", said.get("merOrderId")), said):
            return 422  # the gateway says FAILED, and a person has to look
        DB.execute("INSERT OR IGNORE INTO handled VALUES (?)", (event,))
    return 200

def trade(number, order, amount, path, query, fields):  # makes an order or a refund, at most one per number
    with LOCK, DB:  # written down before the call: a crash cannot lose the number
        known = not DB.execute("INSERT OR IGNORE INTO entry VALUES (?, ?, ?, 'new')", (number, order, amount)).rowcount
        if entry(number)[:2] != (order, amount):
            return 409, {"error": "the number is taken"}
    for to in (query, path) if known else (path, query):  # no clear answer: ask, with the same number
        outcome, said = call(to, {"merOrderId": number} if to == query else fields)
        code = said.get("errCode") if outcome == "answered" else outcome
        with LOCK, DB:
            if code == "SUCCESS" and learn(number, said):
                return 200, {"status": entry(number)[2], "qrCode": said.get("qrCode")}
        if code == "not_sent" or to == query and code != "NO_ORDER":
            break
    return 202, {"status": entry(number)[2], "code": code}  # ask again later, with the same number

class App(http.server.BaseHTTPRequestHandler):
    def do_POST(self):  # an exception ends it without an answer: the gateway says FAILED
        (path, _, query), status, answer = self.path.partition("?"), 404, None
        order, number, amount = map(dict(urllib.parse.parse_qsl(query)).get, ("order", "refund", "amount"))
        if path == "/notify":
            status = notify(self.headers, self.rfile.read(int(self.headers["Content-Length"])))
        elif path == "/pay":
            status, answer = trade(order, None, 4990, "trade/precreate", "query", {  # the shop's own price, in fen
                "merOrderId": order, "totalAmount": 4990, "tradeType": "APP", "notifyUrl": ENV["NOTIFY_URL"]})
        elif path == "/refund":
            status, answer = trade(number, order, int(amount), "refund", "refund-query", {
                "merOrderId": order, "refundOrderId": number, "refundAmount": int(amount)})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode() + b"\n" if answer else b"")
http.server.ThreadingHTTPServer(("127.0.0.1", int(ENV["PORT"])), App).serve_forever()

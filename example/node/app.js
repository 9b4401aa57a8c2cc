// A merchant app behind the gateway: Node 20.10 or newer, nothing from npm. Settings come from the environment.
const crypto = require('node:crypto'), fs = require('node:fs'), http = require('node:http')
const { buffer } = require('node:stream/consumers')
const { APP_SECRET, BOOK, GATEWAY, NOTIFY_URL, PORT, UMS_MID, UMS_TID } = process.env
const KEY = Buffer.from(...APP_SECRET.startsWith('whsec_') ? [APP_SECRET.slice(6), 'base64'] : [APP_SECRET])
const RANK = { new: 0, NEW_ORDER: 1, WAIT_BUYER_PAY: 2, PROCESSING: 2, TRADE_CLOSED: 3, FAIL: 3,
  TRADE_SUCCESS: 4, SUCCESS: 4, success: 4, TRADE_REFUND: 5 }

function withBook(work) { // the app's own record; nothing in here waits, which is the lock for one process
  const book = new Map(fs.existsSync(BOOK) ? JSON.parse(fs.readFileSync(BOOK, 'utf8')) : [])
  const result = work(book)
  fs.writeFileSync(`${BOOK}.next`, JSON.stringify([...book]), { flush: true })
  fs.renameSync(`${BOOK}.next`, BOOK)
  return result
}

const call = (path, fields) => new Promise((resolve) => { // one call through the gateway: [outcome, answer]
  const requestTimestamp = new Date(Date.now() + 8 * 3600e3).toISOString().slice(0, 19).replace('T', ' ')
  const body = JSON.stringify({ requestTimestamp, mid: UMS_MID, tid: UMS_TID, instMid: 'APPDEFAULT', ...fields })
  const headers = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) }
  const signal = AbortSignal.timeout(25e3) // longer than the gateway's own timeout
  const unknown = () => resolve(['unknown', {}]) // it may have been executed
  http.request(`http://${GATEWAY}/v1/netpay/${path}`, { method: 'POST', headers, signal }, (response) => {
    const outcome = response.headers['gateway-outcome'] ?? 'unknown'
    buffer(response).then((text) => resolve([outcome, { ...JSON.parse(text) }])).catch(unknown)
  }).on('error', unknown).end(body) // not with fetch: its Sec-Fetch-Mode makes the gateway take it for a browser
})

function learn(book, number, said, event) { // takes in what the platform says: the status, or false if not as recorded
  const entry = book.get(number)
  if (entry?.events.includes(event)) return entry.status // handled already
  const [name, money, status] = entry?.order ? // refund-query does not repeat the amount
    ['refundOrderId', said.refundAmount ?? entry.amount, said.refundStatus ?? (said.refundPayTime && 'SUCCESS')]
    : ['merOrderId', said.totalAmount, said.status]
  if (!entry || said[name] !== number || ![number, entry.order].includes(said.merOrderId ?? number)
    || String(money) !== String(entry.amount) || said.mid !== UMS_MID) return false
  if (RANK[status] > RANK[entry.status]) entry.status = status // only forward. Ship here: it is done once
  if (event) entry.events.push(event)
  return entry.status
}

function notify(headers, body) { // without the signature (Standard Webhooks) whoever comes here could say "paid"
  const [id, sent, given] = ['id', 'timestamp', 'signature'].map((name) => headers[`webhook-${name}`] ?? '')
  const mac = crypto.createHmac('sha256', KEY).update(`${id}.${sent}.`).update(body).digest('base64')
  const good = given.split(' ').some((one) => // several, while the secret is being changed
    one.length === mac.length + 3 && crypto.timingSafeEqual(Buffer.from(one), Buffer.from(`v1,${mac}`)))
  if (!KEY.length || !good || !/^\d+$/.test(sent) || Math.abs(Date.now() / 1000 - sent) > 300) return [401]
  const said = JSON.parse(body)
  return [withBook((book) => learn(book, said.refundOrderId ?? said.merOrderId, said, id)) ? 200 : 422] // 422: FAILED
}

async function trade(number, order, amount, path, query, fields) { // an order or a refund, at most one per number
  const fresh = { order, amount, status: 'new', events: [] } // written down before the call: a crash cannot lose it
  const entry = withBook((book) => book.get(number) ?? book.set(number, fresh).get(number))
  if (entry.order !== order || entry.amount !== amount) return [409, { error: 'the number is taken' }]
  let code
  for (const to of entry === fresh ? [path, query] : [query, path]) { // no clear answer: ask, with the same number
    const [outcome, said] = await call(to, to === query ? { merOrderId: number } : fields)
    code = outcome === 'answered' ? said.errCode : outcome
    const status = code === 'SUCCESS' && withBook((book) => learn(book, number, said))
    if (status) return [200, { status, qrCode: said.qrCode }]
    if (code === 'not_sent' || (to === query && code !== 'NO_ORDER')) break
  }
  return [202, { status: entry.status, code }] // ask again later, with the same number
}

http.createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://app')
  const [order, number, amount] = ['order', 'refund', 'amount'].map((name) => searchParams.get(name))
  const work = {
    'POST/notify': async () => notify(request.headers, await buffer(request)),
    'POST/pay': () => trade(order, null, 4990, 'trade/precreate', 'query', // the shop's own price, in fen
      { merOrderId: order, totalAmount: 4990, tradeType: 'APP', notifyUrl: NOTIFY_URL }),
    'POST/refund': () => trade(number, order, Number(amount), 'refund', 'refund-query',
      { merOrderId: order, refundOrderId: number, refundAmount: Number(amount) }),
  }[request.method + pathname] ?? (() => [404])
  const [status, answer] = await Promise.resolve().then(work).catch((error) => [500, console.error(error)])
  response.writeHead(status).end(answer && JSON.stringify(answer) + '\n')
}).listen(PORT, '127.0.0.1')

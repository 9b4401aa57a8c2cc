<?php // A merchant app behind the gateway: PHP 8.1 or newer with curl. Its settings come from the Caddyfile beside it.
set_error_handler(fn ($level, $what, $file, $line) => throw new ErrorException($what, 0, $level, $file, $line));
set_exception_handler(fn ($e) => [http_response_code(500), error_log($e->getMessage())]); // FAILED: it comes again
const RANK = ['new' => 0, 'NEW_ORDER' => 1, 'WAIT_BUYER_PAY' => 2, 'PROCESSING' => 2, 'TRADE_CLOSED' => 3, 'FAIL' => 3,
    'TRADE_SUCCESS' => 4, 'SUCCESS' => 4, 'success' => 4, 'TRADE_REFUND' => 5];

function book(callable $work): mixed { // the app's own record, one request at a time; saved whole, or not at all
    $file = $_SERVER['BOOK'];
    flock($lock = fopen("$file.lock", 'c'), LOCK_EX);
    $book = is_file($file) ? json_decode(file_get_contents($file), true, flags: JSON_THROW_ON_ERROR) : [];
    $result = $work($book);
    $next = fopen("$file.next", 'w');
    fwrite($next, json_encode($book, JSON_THROW_ON_ERROR)) && fsync($next) && rename("$file.next", $file);
    return $result;
}

function call(string $path, array $fields): array { // one call through the gateway: [outcome, answer]
    $fields += ['mid' => $_SERVER['UMS_MID'], 'tid' => $_SERVER['UMS_TID'], 'instMid' => 'APPDEFAULT',
        'requestTimestamp' => (new DateTime('now', new DateTimeZone('+08:00')))->format('Y-m-d H:i:s')];
    $curl = curl_init("http://$_SERVER[GATEWAY]/v1/netpay/$path");
    curl_setopt_array($curl, [CURLOPT_POSTFIELDS => json_encode($fields), CURLOPT_HEADER => true,
        CURLOPT_TIMEOUT => 25, // longer than the gateway's own timeout
        CURLOPT_HTTPHEADER => ['Content-Type: application/json', 'Expect:'], CURLOPT_RETURNTRANSFER => true]);
    [$header, $body] = explode("\r\n\r\n", curl_exec($curl) . "\r\n\r\n", 2);
    preg_match('/^Gateway-Outcome: *(\w+)/mi', $header, $outcome); // without it: it may have been executed
    return is_array($answer = json_decode($body, true)) ? [$outcome[1] ?? 'unknown', $answer] : ['unknown', []];
}

function learn(array &$book, string $number, array $said, string $event = ''): bool { // false: not as recorded
    $entry = $book[$number] ?? null;
    if ($entry === null || isset($entry['events'][$event])) return $entry !== null; // handled already
    $refunded = $said['refundStatus'] ?? (isset($said['refundPayTime']) ? 'SUCCESS' : '');
    [$name, $money, $status] = $entry['order'] === null // refund-query does not repeat the amount
        ? ['merOrderId', $said['totalAmount'] ?? '', $said['status'] ?? '']
        : ['refundOrderId', $said['refundAmount'] ?? $entry['amount'], $refunded];
    if (($said[$name] ?? '') !== $number || !in_array($said['merOrderId'] ?? $number, [$number, $entry['order']], true)
        || "$money" !== "$entry[amount]" || ($said['mid'] ?? '') !== $_SERVER['UMS_MID']) return false;
    if ((RANK[$status] ?? 0) > RANK[$entry['status']]) $book[$number]['status'] = $status; // only forward; ship here
    if ($event !== '') $book[$number]['events'][$event] = time();
    return true;
}

function notify(string $body): int { // without the signature (Standard Webhooks) whoever comes here could say "paid"
    foreach (['ID', 'TIMESTAMP', 'SIGNATURE'] as $name) $given[] = $_SERVER["HTTP_WEBHOOK_$name"] ?? '';
    $key = preg_match('/^whsec_(.+)/', $_SERVER['APP_SECRET'], $m) ? base64_decode($m[1]) : $_SERVER['APP_SECRET'];
    $want = 'v1,' . base64_encode(hash_hmac('sha256', "$given[0].$given[1].$body", $key, true));
    $good = array_filter(explode(' ', $given[2]), fn ($one) => hash_equals($want, $one)); // several, while it changes
    if (!$key || !$good || !ctype_digit($given[1]) || abs(time() - (int) $given[1]) > 300) return 401;
    $said = json_decode($body, true, flags: JSON_THROW_ON_ERROR);
    $number = $said['refundOrderId'] ?? $said['merOrderId'] ?? '';
    return book(fn (&$book) => learn($book, $number, $said, $given[0])) ? 200 : 422; // 422: the gateway says FAILED
}

function trade(string $number, ?string $order, int $amount, string $path, string $query, array $fields): array {
    $fresh = ['order' => $order, 'amount' => $amount, 'status' => 'new', 'events' => []]; // one number, one trade:
    [$known, $entry] = book(fn (&$book) => [isset($book[$number]), $book[$number] ??= $fresh]); // before the call
    if ([$entry['order'], $entry['amount']] !== [$order, $amount]) return [409, ['error' => 'the number is taken']];
    foreach ($known ? [$query, $path] : [$path, $query] as $to) { // no clear answer: ask, with the same number
        [$outcome, $said] = call($to, $to === $query ? ['merOrderId' => $number] : $fields);
        $code = $outcome === 'answered' ? $said['errCode'] ?? '' : $outcome;
        if ($code === 'SUCCESS' && book(fn (&$book) => learn($book, $number, $said))) {
            return [200, ['status' => book(fn ($book) => $book[$number]['status']), 'qrCode' => $said['qrCode'] ?? '']];
        }
        if ($code === 'not_sent' || $to === $query && $code !== 'NO_ORDER') break;
    }
    return [202, ['status' => $entry['status'], 'code' => $code]]; // ask again later, with the same number
}

[$order, $number, $amount] = [$_GET['order'] ?? '', $_GET['refund'] ?? '', (int) ($_GET['amount'] ?? 0)];
[$status, $answer] = match ($_SERVER['REQUEST_METHOD'] . strtok($_SERVER['REQUEST_URI'], '?')) {
    'POST/notify' => [notify(file_get_contents('php://input')), null],
    'POST/pay' => trade($order, null, 4990, 'trade/precreate', 'query', ['merOrderId' => $order, // the shop's own price
        'totalAmount' => 4990, 'tradeType' => 'APP', 'notifyUrl' => $_SERVER['NOTIFY_URL']]),
    'POST/refund' => trade($number, $order, $amount, 'refund', 'refund-query',
        ['merOrderId' => $order, 'refundOrderId' => $number, 'refundAmount' => $amount]),
    default => [404, null],
};
http_response_code($status);
echo $answer ? json_encode($answer) . "\n" : '';

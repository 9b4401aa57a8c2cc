<?php
// A notify, verified with the usual code of an SDK. The merchant's app would go on here, in the same process.
$fields = array_filter($_POST, fn ($value) => is_string($value) && $value !== '');
$sign = $fields['sign'] ?? '';
unset($fields['sign']);
ksort($fields, SORT_STRING);
$pairs = [];
foreach ($fields as $name => $value) {
    $pairs[] = "$name=$value";
}
$algorithm = strtoupper($fields['signType'] ?? 'MD5') === 'SHA256' ? 'sha256' : 'md5';
$expected = hash($algorithm, implode('&', $pairs) . getenv('UMS_NOTIFY_KEY'));
header('Content-Type: text/plain');
if (!hash_equals($expected, strtolower($sign))) {
    http_response_code(403);
    exit('FAILED');
}
if (str_contains($_SERVER['REQUEST_URI'], '/slow')) {
    usleep(1000000); // the app takes its time
}
echo 'SUCCESS';

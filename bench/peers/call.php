<?php
// A call to the platform with the usual code of an SDK: sign, send with curl, pass the answer on.
$body = file_get_contents('php://input');
$appId = getenv('UMS_APP_ID');
$timestamp = (new DateTime('now', new DateTimeZone('Asia/Shanghai')))->format('YmdHis');
$nonce = bin2hex(random_bytes(16));
$signature = base64_encode(hash_hmac('sha256', $appId . $timestamp . $nonce . hash('sha256', $body), getenv('UMS_APP_KEY'), true));
$authorization = "OPEN-BODY-SIG AppId=\"$appId\", Timestamp=\"$timestamp\", Nonce=\"$nonce\", Signature=\"$signature\"";

$curl = curl_init(($_SERVER['PLATFORM'] ?? getenv('PLATFORM')) . $_SERVER['REQUEST_URI']);
curl_setopt_array($curl, [
    CURLOPT_POST => true,
    CURLOPT_POSTFIELDS => $body,
    CURLOPT_RETURNTRANSFER => true,
    CURLOPT_TIMEOUT => 60,
    CURLOPT_CAINFO => getenv('PLATFORM_CA'),
    CURLOPT_HTTPHEADER => ['Content-Type: application/json', 'Expect:', "Authorization: $authorization"],
]);
$answer = curl_exec($curl);
if ($answer === false) {
    http_response_code(502);
    error_log(curl_error($curl));
    exit;
}
http_response_code(curl_getinfo($curl, CURLINFO_RESPONSE_CODE));
header('Content-Type: application/json');
echo $answer;

// The call's OPEN-BODY-SIG, evaluated when nginx makes the request to the platform: the body has been read by then.
import crypto from 'crypto';

const appId = '{{.AppID}}';
const appKey = process.env.UMS_APP_KEY;

function authorization(r) {
    const timestamp = new Date(Date.now() + 8 * 3600000).toISOString().replace(/[-T:]/g, '').slice(0, 14);
    const nonce = r.variables.request_id; // 16 random bytes in hex
    const digest = crypto.createHash('sha256').update(r.requestBuffer || '').digest('hex');
    const signature = crypto.createHmac('sha256', appKey).update(appId + timestamp + nonce + digest).digest('base64');
    return `OPEN-BODY-SIG AppId="${appId}", Timestamp="${timestamp}", Nonce="${nonce}", Signature="${signature}"`;
}

export default { authorization };

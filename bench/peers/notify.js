// Does the whole of what the plugin does with a notify: verifies it, writes JSON with amounts as numbers and times in
// RFC 3339, sends that to the app as a CloudEvent, and tells the platform SUCCESS only if the app has said so.
import crypto from 'crypto';
import verify from 'verify.js';

const json = ['billPayment', 'goods', 'subOrders', 'refundSubOrders'];
const times = ['payTime', 'createTime', 'refundPayTime'];
const words = { TRADE_SUCCESS: 'succeeded', TRADE_CLOSED: 'closed', NEW_ORDER: 'created', WAIT_BUYER_PAY: 'pending' };

function rfc3339(text) {
    return /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/.test(text) ? text.replace(' ', 'T') + '+08:00' : text;
}

function normalized(fields) {
    const data = {};
    for (const name in fields) {
        const value = fields[name];
        if (value === '' || name === 'sign' || name === 'signType') {
            continue;
        }
        if ((name.endsWith('Amount') || name.endsWith('Contribute')) && /^\d{1,15}$/.test(value)) {
            data[name] = Number(value);
        } else if (times.includes(name)) {
            data[name] = rfc3339(value);
        } else if (json.includes(name)) {
            try {
                data[name] = JSON.parse(value);
            } catch (e) {
                data[name] = value;
            }
        } else {
            data[name] = value;
        }
    }
    return data;
}

function identity(fields) {
    const parts = [fields.mid, fields.merOrderId, fields.seqId, fields.status, fields.totalAmount, fields.refundOrderId];
    return fields.notifyId || crypto.createHash('sha256').update(parts.join('\n')).digest('hex').slice(0, 32);
}

async function deliver(r) {
    const fields = verify.verified(r.requestText || '');
    if (!fields) {
        r.return(403, 'FAILED');
        return;
    }
    const data = normalized(fields);
    r.variables.ce_id = identity(fields);
    r.variables.ce_type = 'com.chinaums.payment.' + (words[fields.status] || 'unknown');
    r.variables.ce_subject = fields.merOrderId || '';
    r.variables.ce_time = data.payTime || '';
    const answer = await r.subrequest('/app', { method: 'POST', body: JSON.stringify(data) });
    const word = (answer.responseText || '').trim().toUpperCase();
    const taken = answer.status >= 200 && answer.status <= 299 && (word === '' || word === 'SUCCESS' || word === 'OK');
    r.return(taken ? 200 : 502, taken ? 'SUCCESS' : 'FAILED');
}

export default { deliver };

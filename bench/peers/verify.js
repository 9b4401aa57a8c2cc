// Verifies a notify, and passes it on to the app as it came.
import crypto from 'crypto';
import querystring from 'querystring';

const notifyKey = process.env.UMS_NOTIFY_KEY;

function equal(a, b) {
    if (a.length !== b.length) {
        return false;
    }
    let difference = 0;
    for (let i = 0; i < a.length; i++) {
        difference |= a.charCodeAt(i) ^ b.charCodeAt(i);
    }
    return difference === 0;
}

// verified returns a true notify's fields, else null.
function verified(text) {
    const fields = querystring.parse(text);
    const names = Object.keys(fields).sort();
    const pairs = [];
    for (let i = 0; i < names.length; i++) {
        const name = names[i], value = fields[name];
        if (typeof value !== 'string') {
            return null; // given twice
        }
        if (value !== '' && name !== 'sign') {
            pairs.push(`${name}=${value}`);
        }
    }
    const algorithm = (fields.signType || 'MD5').toUpperCase() === 'SHA256' ? 'sha256' : 'md5';
    const expected = crypto.createHash(algorithm).update(pairs.join('&') + notifyKey).digest('hex');
    return equal(expected, (fields.sign || '').toLowerCase()) ? fields : null;
}

function notify(r) {
    if (!verified(r.requestText || '')) {
        r.return(403, 'FAILED');
        return;
    }
    r.internalRedirect('@app');
}

export default { notify, verified };

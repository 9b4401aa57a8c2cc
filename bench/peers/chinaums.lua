-- Signs calls and verifies notifies. SHA-256 and HMAC come from the libcrypto that nginx is linked with, by FFI: Debian
-- has no lua-resty-string, and this is what it does.
local ffi = require "ffi"
local concat, sort = table.concat, table.sort
local byte, lower, upper = string.byte, string.lower, string.upper

ffi.cdef [[
typedef struct evp_md_st EVP_MD;
typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct hmac_ctx_st HMAC_CTX;
EVP_MD *EVP_MD_fetch(void *library, const char *name, const char *properties);
int EVP_Digest(const void *data, size_t count, unsigned char *md, unsigned int *size, const EVP_MD *type, void *engine);
HMAC_CTX *HMAC_CTX_new(void);
int HMAC_Init_ex(HMAC_CTX *ctx, const void *key, int len, const EVP_MD *md, void *engine);
int HMAC_Update(HMAC_CTX *ctx, const unsigned char *data, size_t len);
int HMAC_Final(HMAC_CTX *ctx, unsigned char *md, unsigned int *len);
]]
local C = ffi.C

local app_id = "{{.AppID}}"
local app_key = os.getenv("UMS_APP_KEY")
local notify_key = os.getenv("UMS_NOTIFY_KEY")

local sha256 = C.EVP_MD_fetch(nil, "SHA256", nil)
local md5 = C.EVP_MD_fetch(nil, "MD5", nil)
local out = ffi.new("unsigned char[64]")
local out_size = ffi.new("unsigned int[1]")

-- One context with the key already absorbed; nothing yields between its Init and its Final.
local hmac = C.HMAC_CTX_new()
assert(C.HMAC_Init_ex(hmac, app_key, #app_key, sha256, nil) == 1)

local hex_digits = {}
for i = 0, 255 do
    hex_digits[i] = string.format("%02x", i)
end
local hex_parts = {}

local function digest(kind, data)
    assert(C.EVP_Digest(data, #data, out, out_size, kind, nil) == 1)
    local size = out_size[0]
    for i = 1, size do
        hex_parts[i] = hex_digits[out[i - 1]]
    end
    return concat(hex_parts, "", 1, size)
end

local function hmac_sha256(data)
    assert(C.HMAC_Init_ex(hmac, nil, 0, nil, nil) == 1)
    assert(C.HMAC_Update(hmac, data, #data) == 1)
    assert(C.HMAC_Final(hmac, out, out_size) == 1)
    return ffi.string(out, out_size[0])
end

local M = {}

function M.sign()
    ngx.req.read_body()
    local body = ngx.req.get_body_data() or ""
    local timestamp = os.date("!%Y%m%d%H%M%S", ngx.time() + 8 * 3600)
    local nonce = ngx.var.request_id -- 16 random bytes in hex
    local signature = ngx.encode_base64(hmac_sha256(app_id .. timestamp .. nonce .. digest(sha256, body)))
    ngx.var.ums_authorization = 'OPEN-BODY-SIG AppId="' .. app_id .. '", Timestamp="' .. timestamp .. '", Nonce="' .. nonce ..
        '", Signature="' .. signature .. '"'
end

local function equal(a, b)
    if #a ~= #b then
        return false
    end
    local difference = 0
    for i = 1, #a do
        difference = bit.bor(difference, bit.bxor(byte(a, i), byte(b, i)))
    end
    return difference == 0
end

local function verified()
    ngx.req.read_body()
    local fields = ngx.req.get_post_args(300)
    if not fields then
        return false
    end
    local names, count = {}, 0
    for name, value in pairs(fields) do
        if type(value) == "table" then
            return false -- given twice
        end
        if name ~= "sign" and value ~= "" and value ~= true then
            count = count + 1
            names[count] = name
        end
    end
    sort(names)
    for i = 1, count do
        names[i] = names[i] .. "=" .. fields[names[i]]
    end
    local signed = concat(names, "&", 1, count) .. notify_key
    local kind = upper(fields.signType or "MD5") == "SHA256" and sha256 or md5
    return equal(digest(kind, signed), lower(fields.sign or ""))
end

function M.verify()
    if not verified() then
        ngx.status = 403
        ngx.print("FAILED")
        return ngx.exit(ngx.HTTP_OK)
    end
end

return M

/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_key.c - the contract is in ssh_key.h.
 *
 * OpenSSH's form is taken apart here; OpenSSL knows the others.  ed25519 signs with libsodium, in a
 * quarter of OpenSSL's time, ECDSA with OpenSSL.  The public half is computed from the secret: a
 * signature with another would give the secret away.
 */
#include "launcher/remote/ssh_key.h"

#include <errno.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <sodium.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"

#define INSTEAD   ": use ed25519 or --via openssh"
#define BEGIN     "-----BEGIN OPENSSH PRIVATE KEY-----"
#define END       "-----END OPENSSH PRIVATE KEY-----"
#define NOT_RSA   "is RSA, which libssh2 can use with old servers only" INSTEAD
#define SEALED    "is encrypted: give it to an ssh-agent with ssh-add"
#define DAMAGED   "is damaged"
#define OF_NO_USE "is of a type that cannot be used" INSTEAD

enum {
    SEED_BYTES = crypto_sign_SEEDBYTES,
    POINT_FORM = 4 /* both coordinates follow */,
    MAX_POINT = 1 + 2 * 66
};

struct curve {
    const char *type, *name, *group; /* of ssh, of ssh, of OpenSSL */
    size_t bytes;                    /* of a coordinate */
    const EVP_MD *(*digest)(void);
};

static const struct curve curves[] = {
    {"ecdsa-sha2-nistp256", "nistp256", "prime256v1", 32, EVP_sha256},
    {"ecdsa-sha2-nistp384", "nistp384", "secp384r1", 48, EVP_sha384},
    {"ecdsa-sha2-nistp521", "nistp521", "secp521r1", 66, EVP_sha512},
};

struct bytes { /* of a key that is taken apart */
    const unsigned char *at;
    size_t len;
};

static int refuse(struct ds_ssh_key *key, const char *why)
{
    return ds_fail(&key->err, EINVAL, "%s", why);
}

static bool is(struct bytes bytes, const char *text)
{
    return bytes.len == strlen(text) && memcmp(bytes.at, text, bytes.len) == 0;
}

/* --- the public half -------------------------------------------------------------------------- */

static void put(struct ds_ssh_key *key, const void *bytes, size_t len)
{
    unsigned char *at = key->blob + key->len;

    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(len >> (24 - 8 * i));
    memcpy(at + 4, bytes, len);
    key->len += 4 + len;
}

static void put_text(struct ds_ssh_key *key, const char *text)
{
    put(key, text, strlen(text));
}

static const struct curve *curve_of(const EVP_PKEY *pkey)
{
    char group[64];

    if (EVP_PKEY_get_group_name(pkey, group, sizeof(group), NULL) == 1)
        for (size_t i = 0; i < sizeof(curves) / sizeof(curves[0]); i++)
            if (strcmp(group, curves[i].group) == 0)
                return &curves[i];
    return NULL;
}

static int set_ecdsa(struct ds_ssh_key *key, const struct curve *curve)
{
    unsigned char point[MAX_POINT] = {POINT_FORM};
    BIGNUM *x = NULL, *y = NULL;
    int size = (int)curve->bytes;
    bool good = EVP_PKEY_get_bn_param(key->pkey, OSSL_PKEY_PARAM_EC_PUB_X, &x) == 1 &&
                EVP_PKEY_get_bn_param(key->pkey, OSSL_PKEY_PARAM_EC_PUB_Y, &y) == 1 &&
                BN_bn2binpad(x, point + 1, size) == size &&
                BN_bn2binpad(y, point + 1 + size, size) == size;

    BN_free(x);
    BN_free(y);
    if (!good)
        return refuse(key, DAMAGED);
    put_text(key, curve->type);
    put_text(key, curve->name);
    put(key, point, 1 + 2 * curve->bytes);
    return 0;
}

static int set_ed25519(struct ds_ssh_key *key, const unsigned char seed[SEED_BYTES])
{
    unsigned char public[crypto_sign_PUBLICKEYBYTES];

    if (sodium_init() < 0 || crypto_sign_seed_keypair(public, key->secret, seed) != 0)
        return refuse(key, "cannot be used: libsodium does not start");
    put_text(key, "ssh-ed25519");
    put(key, public, sizeof(public));
    return 0;
}

/* --- OpenSSH's form --------------------------------------------------------------------------- */

static uint32_t get_u32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* The next string, off the front of `from`. */
static bool take(struct bytes *from, struct bytes *out)
{
    if (from->len < 4 || get_u32(from->at) > from->len - 4)
        return false;
    *out = (struct bytes){from->at + 4, get_u32(from->at)};
    from->at += 4 + out->len;
    from->len -= 4 + out->len;
    return true;
}

static bool skip(struct bytes *from, size_t n)
{
    if (from->len < n)
        return false;
    from->at += n;
    from->len -= n;
    return true;
}

static EVP_PKEY *make_ec(const struct curve *curve, struct bytes point, struct bytes secret)
{
    BIGNUM *scalar = BN_bin2bn(secret.at, (int)secret.len, NULL);
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    OSSL_PARAM *params = NULL;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    EVP_PKEY *pkey = NULL;

    if (scalar != NULL && build != NULL && ctx != NULL &&
        OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, curve->group, 0) == 1 &&
        OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point.at, point.len) ==
            1 &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_PRIV_KEY, scalar) == 1)
        params = OSSL_PARAM_BLD_to_param(build);
    if (params == NULL || EVP_PKEY_fromdata_init(ctx) != 1 ||
        EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_KEYPAIR, params) != 1)
        pkey = NULL;
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(build);
    EVP_PKEY_CTX_free(ctx);
    BN_clear_free(scalar);
    return pkey;
}

static int parse_ed25519(struct ds_ssh_key *key, struct bytes half)
{
    struct bytes public, secret; /* the secret is the seed and the public key again */

    if (!take(&half, &public) || !take(&half, &secret) || secret.len != sizeof(key->secret))
        return refuse(key, DAMAGED);
    return set_ed25519(key, secret.at);
}

static int parse_ecdsa(struct ds_ssh_key *key, const struct curve *curve, struct bytes half)
{
    struct bytes name, point, secret;

    if (!take(&half, &name) || !take(&half, &point) || !take(&half, &secret) ||
        !is(name, curve->name) || point.len != 1 + 2 * curve->bytes || secret.len == 0 ||
        secret.len > curve->bytes + 1)
        return refuse(key, DAMAGED);
    key->pkey = make_ec(curve, point, secret);
    return key->pkey != NULL ? set_ecdsa(key, curve) : refuse(key, DAMAGED);
}

/* The private half: two equal numbers, the type, what belongs to it. */
static int parse_half(struct ds_ssh_key *key, struct bytes half)
{
    const unsigned char *checks = half.at;
    struct bytes type;

    if (!skip(&half, 8) || memcmp(checks, checks + 4, 4) != 0 || !take(&half, &type))
        return refuse(key, DAMAGED);
    if (is(type, "ssh-ed25519"))
        return parse_ed25519(key, half);
    for (size_t i = 0; i < sizeof(curves) / sizeof(curves[0]); i++)
        if (is(type, curves[i].type))
            return parse_ecdsa(key, &curves[i], half);
    return refuse(key, OF_NO_USE);
}

/* The public half names the type. */
static int judge_type(struct ds_ssh_key *key, struct bytes public)
{
    struct bytes type;

    if (!take(&public, &type))
        return refuse(key, DAMAGED);
    if (is(type, "ssh-rsa"))
        return refuse(key, NOT_RSA);
    if (type.len > 3 && memcmp(type.at, "sk-", 3) == 0)
        return refuse(key, "is a hardware key: use --via openssh");
    return 0;
}

static int parse_openssh(struct ds_ssh_key *key, struct bytes rest)
{
    static const char magic[] = "openssh-key-v1"; /* its NUL belongs to it */
    struct bytes cipher, kdf, options, public, half;

    if (rest.len < sizeof(magic) || memcmp(rest.at, magic, sizeof(magic)) != 0 ||
        !skip(&rest, sizeof(magic)) || !take(&rest, &cipher))
        return refuse(key, DAMAGED);
    if (!is(cipher, "none"))
        return refuse(key, SEALED);
    if (!take(&rest, &kdf) || !take(&rest, &options) || rest.len < 4 || get_u32(rest.at) != 1 ||
        !skip(&rest, 4) || !take(&rest, &public) || judge_type(key, public) != 0 ||
        !take(&rest, &half) || parse_half(key, half) != 0)
        return key->err.code != 0 ? -EINVAL : refuse(key, DAMAGED);
    if (public.len != key->len || memcmp(public.at, key->blob, key->len) != 0)
        return refuse(key, DAMAGED);
    return 0;
}

/* Between the two lines stands base64. */
static int parse_armored(struct ds_ssh_key *key, const char *from, const char *to)
{
    size_t room = (size_t)(to - from), len = 0;
    unsigned char *bytes = malloc(room + 1);
    int rc;

    if (bytes == NULL)
        return ds_fail(&key->err, ENOMEM, "does not fit in memory");
    if (sodium_base642bin(bytes, room, from, room, " \t\r\n", &len, NULL,
                          sodium_base64_VARIANT_ORIGINAL) == 0)
        rc = parse_openssh(key, (struct bytes){bytes, len});
    else
        rc = refuse(key, DAMAGED);
    sodium_memzero(bytes, room);
    free(bytes);
    return rc;
}

/* --- the other forms -------------------------------------------------------------------------- */

/* A passphrase is asked of nobody. */
static int no_phrase(char *out, int size, int writing, void *user)
{
    (void)out;
    (void)size;
    (void)writing;
    (void)user;
    return -1;
}

static int take_pkey(struct ds_ssh_key *key)
{
    unsigned char seed[SEED_BYTES];
    const struct curve *curve = NULL;
    size_t len = sizeof(seed);
    int rc;

    switch (EVP_PKEY_get_base_id(key->pkey)) {
    case EVP_PKEY_RSA: return refuse(key, NOT_RSA);
    case EVP_PKEY_EC: curve = curve_of(key->pkey); break;
    case EVP_PKEY_ED25519:
        rc = EVP_PKEY_get_raw_private_key(key->pkey, seed, &len) == 1 ? set_ed25519(key, seed)
                                                                      : refuse(key, DAMAGED);
        sodium_memzero(seed, sizeof(seed));
        EVP_PKEY_free(key->pkey);
        key->pkey = NULL;
        return rc;
    default: break;
    }
    return curve != NULL ? set_ecdsa(key, curve) : refuse(key, OF_NO_USE);
}

static int parse_pem(struct ds_ssh_key *key, const char *text, size_t len)
{
    BIO *bio = BIO_new_mem_buf(text, (int)len);

    if (bio == NULL)
        return ds_fail(&key->err, ENOMEM, "does not fit in memory");
    key->pkey = PEM_read_bio_PrivateKey(bio, NULL, no_phrase, NULL);
    BIO_free(bio);
    return key->pkey == NULL ? refuse(key, DAMAGED) : take_pkey(key);
}

/* --- files ------------------------------------------------------------------------------------ */

void ds_ssh_key_parse(struct ds_ssh_key *key, const char *text, size_t len)
{
    const char *begin = memmem(text, len, BEGIN, strlen(BEGIN)), *end = NULL;

    if (begin != NULL) {
        begin += strlen(BEGIN);
        end = memmem(begin, len - (size_t)(begin - text), END, strlen(END));
        (void)(end == NULL ? refuse(key, DAMAGED) : parse_armored(key, begin, end));
    } else if (memmem(text, len, "PRIVATE KEY-----", 16) == NULL) {
        (void)refuse(key, "is no private key");
    } else if (memmem(text, len, "ENCRYPTED", 9) != NULL) {
        (void)refuse(key, SEALED);
    } else {
        (void)parse_pem(key, text, len);
    }
    if (key->err.code == 0)
        return;
    EVP_PKEY_free(key->pkey);
    sodium_memzero(key->secret, sizeof(key->secret));
    key->pkey = NULL;
    key->len = 0;
}

static void read_file(struct ds_ssh_key *key)
{
    struct ds_buf text;
    struct stat info;

    key->absent = stat(key->path, &info) != 0;
    if (key->absent) {
        (void)ds_fail(&key->err, errno, "%s", strerror(errno));
        return;
    }
    if ((info.st_mode & 077) != 0 && info.st_uid == getuid()) {
        (void)ds_fail(&key->err, EACCES, "can be read by others");
        return;
    }
    ds_buf_init(&text, DS_SSH_KEY_FILE);
    if (ds_fs_read(key->path, DS_SSH_KEY_FILE, &text, &key->err) == 0)
        ds_ssh_key_parse(key, ds_buf_text(&text), text.len);
    if (text.data != NULL)
        sodium_memzero(text.data, text.cap);
    ds_buf_release(&text);
}

const struct ds_ssh_key *ds_ssh_key_find(struct ds_ssh_key **keys, const char *path)
{
    struct ds_ssh_key *key = *keys;

    while (key != NULL && strcmp(key->path, path) != 0)
        key = key->next;
    if (key != NULL)
        return key;
    key = calloc(1, sizeof(*key));
    if (key == NULL)
        return NULL;
    key->path = path;
    key->next = *keys;
    *keys = key;
    read_file(key);
    return key;
}

void ds_ssh_keys_free(struct ds_ssh_key **keys)
{
    while (*keys != NULL) {
        struct ds_ssh_key *key = *keys;

        *keys = key->next;
        EVP_PKEY_free(key->pkey);
        sodium_memzero(key->secret, sizeof(key->secret));
        free(key);
    }
}

/* --- signing ---------------------------------------------------------------------------------- */

/* A number as ssh writes it: big endian, as short as can be, a zero before a high bit. */
static unsigned char *put_number(unsigned char *at, const BIGNUM *number)
{
    int bytes = BN_num_bytes(number), pad = BN_num_bits(number) % 8 == 0;

    for (int i = 0; i < 4; i++)
        *at++ = (unsigned char)((unsigned)(bytes + pad) >> (24 - 8 * i));
    if (pad)
        *at++ = 0;
    (void)BN_bn2bin(number, at);
    return at + bytes;
}

/* OpenSSL's two numbers in DER become ssh's. */
static int rewrite_ecdsa(unsigned char **sig, size_t *sig_len)
{
    const unsigned char *der = *sig;
    ECDSA_SIG *pair = d2i_ECDSA_SIG(NULL, &der, (long)*sig_len);
    unsigned char *out = NULL;

    if (pair != NULL)
        out = malloc(2 * (size_t)(4 + 1 + MAX_POINT / 2));
    if (out != NULL)
        *sig_len =
            (size_t)(put_number(put_number(out, ECDSA_SIG_get0_r(pair)), ECDSA_SIG_get0_s(pair)) -
                     out);
    ECDSA_SIG_free(pair);
    free(*sig);
    *sig = out;
    return out != NULL ? 0 : -ENOMEM;
}

static int sign_ed25519(const struct ds_ssh_key *key, const void *data, size_t len,
                        unsigned char **sig, size_t *sig_len)
{
    *sig_len = crypto_sign_BYTES;
    *sig = malloc(*sig_len);
    if (*sig == NULL)
        return -ENOMEM;
    return crypto_sign_detached(*sig, NULL, data, len, key->secret) == 0 ? 0 : -EIO;
}

static int sign_ecdsa(const struct ds_ssh_key *key, const void *data, size_t len,
                      unsigned char **sig, size_t *sig_len)
{
    const EVP_MD *digest = curve_of(key->pkey)->digest();
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int rc = ctx == NULL ? -ENOMEM : 0;

    if (rc == 0 && (EVP_DigestSignInit(ctx, NULL, digest, NULL, key->pkey) != 1 ||
                    EVP_DigestSign(ctx, NULL, sig_len, data, len) != 1))
        rc = -EIO;
    if (rc == 0)
        *sig = malloc(*sig_len);
    if (rc == 0 && *sig == NULL)
        rc = -ENOMEM;
    if (rc == 0 && EVP_DigestSign(ctx, *sig, sig_len, data, len) != 1)
        rc = -EIO;
    EVP_MD_CTX_free(ctx);
    return rc == 0 ? rewrite_ecdsa(sig, sig_len) : rc;
}

int ds_ssh_key_sign(const struct ds_ssh_key *key, const void *data, size_t len, unsigned char **sig,
                    size_t *sig_len)
{
    int rc;

    *sig = NULL;
    *sig_len = 0;
    rc = key->pkey == NULL ? sign_ed25519(key, data, len, sig, sig_len)
                           : sign_ecdsa(key, data, len, sig, sig_len);
    if (rc != 0) {
        free(*sig);
        *sig = NULL;
    }
    return rc;
}

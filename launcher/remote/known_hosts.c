/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * known_hosts.c - the contract is in known_hosts.h.
 */
#include "launcher/remote/known_hosts.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "launcher/remote/pattern.h"

enum { SHA1_BYTES = 20, SHA256_BYTES = 32, SHA1_BASE64 = 28, SSH_PORT = 22 };

struct word {
    const char *at;
    size_t len;
};

/* The next word of the line, at most to `end`; an empty one at its end. */
static struct word next_word(const char **at, const char *end)
{
    struct word word;

    while (*at < end && (**at == ' ' || **at == '\t'))
        (*at)++;
    word.at = *at;
    while (*at < end && **at != ' ' && **at != '\t' && **at != '\r')
        (*at)++;
    word.len = (size_t)(*at - word.at);
    return word;
}

/* Bytes decoded into `out`, or 0 when this is not base64 of at most `room` bytes. */
static size_t decode(const char *text, size_t len, unsigned char *out, size_t room)
{
    size_t pad = 0;
    int n;

    if (len == 0 || len % 4 != 0 || len / 4 * 3 > room)
        return 0;
    while (pad < 2 && text[len - 1 - pad] == '=')
        pad++;
    if (memchr(text, '=', len - pad) != NULL)
        return 0;
    n = EVP_DecodeBlock(out, (const unsigned char *)text, (int)len);
    return n < (int)pad ? 0 : (size_t)n - pad;
}

static void hash_name(unsigned char out[SHA1_BYTES], const void *salt, const char *name)
{
    unsigned int len = SHA1_BYTES;

    if (HMAC(EVP_sha1(), salt, SHA1_BYTES, (const unsigned char *)name, strlen(name), out, &len) ==
        NULL)
        memset(out, 0, SHA1_BYTES);
}

/* "|1|salt|hash" */
static bool hashed_matches(struct word names, const char *name)
{
    unsigned char salt[SHA1_BYTES + 1], hash[SHA1_BYTES + 1], mine[SHA1_BYTES];
    const char *text = names.at + 3;

    if (names.len != 3 + 2 * SHA1_BASE64 + 1 || names.at[3 + SHA1_BASE64] != '|')
        return false;
    if (decode(text, SHA1_BASE64, salt, sizeof(salt)) != SHA1_BYTES ||
        decode(text + SHA1_BASE64 + 1, SHA1_BASE64, hash, sizeof(hash)) != SHA1_BYTES)
        return false;
    hash_name(mine, salt, name);
    return memcmp(mine, hash, SHA1_BYTES) == 0;
}

static bool is_hashed(struct word names)
{
    return names.len > 3 && memcmp(names.at, "|1|", 3) == 0;
}

void ds_known_name(char *out, const char *host, unsigned port)
{
    char lower[DS_MAX_HOST_NAME + 1];
    size_t i;

    for (i = 0; i < DS_MAX_HOST_NAME && host[i] != '\0'; i++)
        lower[i] = (char)tolower((unsigned char)host[i]);
    lower[i] = '\0';
    if (port == 0 || port == SSH_PORT)
        (void)snprintf(out, DS_MAX_HOST_NAME + 16, "%s", lower);
    else
        (void)snprintf(out, DS_MAX_HOST_NAME + 16, "[%s]:%u", lower, port);
}

/* `mark` of a line, or -1 for a marker nobody knows. */
static int read_mark(struct word word)
{
    if (word.len == 8 && memcmp(word.at, "@revoked", 8) == 0)
        return DS_KNOWN_REVOKED;
    if (word.len == 15 && memcmp(word.at, "@cert-authority", 15) == 0)
        return DS_KNOWN_AUTHORITY;
    return -1;
}

static void add_line(struct ds_known *known, const char *file, unsigned line, const char *at,
                     const char *end, const char *name)
{
    struct ds_known_entry entry = {.file = file, .line = line};
    struct word names = next_word(&at, end), type, key;

    if (names.len == 0 || names.at[0] == '#')
        return;
    if (names.at[0] == '@') {
        int mark = read_mark(names);

        if (mark < 0)
            return;
        entry.mark = (enum ds_known_mark)mark;
        names = next_word(&at, end);
    }
    type = next_word(&at, end);
    key = next_word(&at, end);
    if (key.len == 0 || known->entries == DS_MAX_KNOWN_KEYS)
        return;
    known->hashed = known->hashed || is_hashed(names);
    if (is_hashed(names) ? !hashed_matches(names, name)
                         : !ds_pattern_list(names.at, names.len, ',', name))
        return;
    entry.type = type.at;
    entry.type_len = type.len;
    entry.key = key.at;
    entry.key_len = key.len;
    known->entry[known->entries++] = entry;
}

void ds_known_add(struct ds_known *known, const char *file, const char *text, size_t len,
                  const char *name)
{
    const char *at = text, *end = text + len;

    for (unsigned line = 1; at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));

        if (stop == NULL)
            stop = end;
        add_line(known, file, line, at, stop, name);
        at = stop < end ? stop + 1 : end;
    }
}

void ds_key_type(char *out, const void *blob, size_t len)
{
    const unsigned char *bytes = blob;
    uint32_t n;

    out[0] = '\0';
    if (len < 4)
        return;
    n = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
    if (n > 63 || n > len - 4)
        return;
    memcpy(out, bytes + 4, n);
    out[n] = '\0';
    for (uint32_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)out[i]) && (out[i] == '\0' || strchr("@.-", out[i]) == NULL)) {
            out[0] = '\0'; /* it could not stand in a line of a file */
            return;
        }
}

static bool same_key(const struct ds_known_entry *entry, const void *blob, size_t len)
{
    unsigned char key[DS_MAX_KEY_BYTES + 3];
    size_t n = decode(entry->key, entry->key_len, key, sizeof(key));

    return n == len && n > 0 && memcmp(key, blob, len) == 0;
}

static bool same_type(const struct ds_known_entry *entry, const char *type)
{
    return entry->type_len == strlen(type) && memcmp(entry->type, type, entry->type_len) == 0;
}

enum ds_known_answer ds_known_check(const struct ds_known *known, const void *blob, size_t len,
                                    const struct ds_known_entry **entry)
{
    enum ds_known_answer answer = DS_KNOWN_UNKNOWN;
    char type[64];

    *entry = NULL;
    ds_key_type(type, blob, len);
    for (size_t i = 0; i < known->entries; i++) {
        const struct ds_known_entry *at = &known->entry[i];
        enum ds_known_answer says = DS_KNOWN_OTHER_TYPE;

        if (at->mark == DS_KNOWN_AUTHORITY)
            says = DS_KNOWN_CA_ONLY;
        else if (same_key(at, blob, len))
            says = at->mark == DS_KNOWN_REVOKED ? DS_KNOWN_IS_REVOKED : DS_KNOWN_TRUSTED;
        else if (at->mark == DS_KNOWN_REVOKED)
            continue;
        else if (same_type(at, type))
            says = DS_KNOWN_CHANGED;
        if (says == DS_KNOWN_IS_REVOKED) {
            *entry = at;
            return says;
        }
        if (answer == DS_KNOWN_TRUSTED || (answer == DS_KNOWN_CHANGED && says != DS_KNOWN_TRUSTED))
            continue;
        answer = says;
        *entry = at;
    }
    return answer;
}

bool ds_known_has(const struct ds_known *known, const char *type)
{
    for (size_t i = 0; i < known->entries; i++)
        if (known->entry[i].mark == DS_KNOWN_KEY && same_type(&known->entry[i], type))
            return true;
    return false;
}

static int put_base64(struct ds_buf *out, const void *bytes, size_t len)
{
    unsigned char text[(DS_MAX_KEY_BYTES + 2) / 3 * 4 + 1];
    int n = EVP_EncodeBlock(text, bytes, (int)len);

    return ds_buf_put(out, text, (size_t)n);
}

int ds_known_line(struct ds_buf *out, const char *name, const void *blob, size_t len,
                  const void *salt)
{
    unsigned char hash[SHA1_BYTES];
    char type[64];

    ds_key_type(type, blob, len);
    if (type[0] == '\0' || len > DS_MAX_KEY_BYTES)
        return -EINVAL;
    if (salt == NULL) {
        (void)ds_buf_puts(out, name);
    } else {
        hash_name(hash, salt, name);
        (void)ds_buf_puts(out, "|1|");
        (void)put_base64(out, salt, SHA1_BYTES);
        (void)ds_buf_puts(out, "|");
        (void)put_base64(out, hash, SHA1_BYTES);
    }
    (void)ds_buf_printf(out, " %s ", type);
    (void)put_base64(out, blob, len);
    return ds_buf_puts(out, "\n");
}

void ds_key_fingerprint(char *out, const void *blob, size_t len)
{
    unsigned char hash[EVP_MAX_MD_SIZE], text[EVP_MAX_MD_SIZE * 2];
    unsigned int n = 0;

    if (EVP_Digest(blob, len, hash, &n, EVP_sha256(), NULL) != 1 || n != SHA256_BYTES) {
        out[0] = '\0';
        return;
    }
    (void)EVP_EncodeBlock(text, hash, SHA256_BYTES);
    (void)snprintf(out, 64, "SHA256:%.43s", (const char *)text); /* without the padding */
}

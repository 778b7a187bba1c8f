/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_key.c - the contract is in ssh_key.h.
 *
 * Source  PROTOCOL.key of OpenSSH; RFC 5958 (PKCS #8)
 */
#include "launcher/remote/ssh_key.h"

#include <openssl/evp.h>
#include <stdint.h>
#include <string.h>

#include "launcher/remote/known_hosts.h"

enum { DECODED = 768 };

#define NOT_RSA ", which libssh2 can use with old servers only: use ed25519 or --via openssh"

static uint32_t get_u32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* The beginning of an OpenSSH key: cipher, kdf, options, one public key.  NULL: it can be used. */
static const char *judge_openssh(const unsigned char *bytes, size_t len)
{
    static const char magic[] = "openssh-key-v1";
    size_t at = sizeof(magic), n = 0;
    char type[64];

    if (len < at + 4 || memcmp(bytes, magic, at) != 0)
        return "is damaged";
    n = get_u32(bytes + at);
    if (n != 4 || at + 8 > len || memcmp(bytes + at + 4, "none", 4) != 0)
        return "is encrypted: give it to an ssh-agent with ssh-add";
    for (int i = 0; i < 3; i++) { /* cipher, kdf, options */
        if (at + 4 > len || get_u32(bytes + at) > len - at - 4)
            return "is damaged";
        at += 4 + get_u32(bytes + at);
    }
    if (at + 8 > len)
        return "is damaged";
    ds_key_type(type, bytes + at + 8, len - at - 8);
    if (strcmp(type, "ssh-rsa") == 0)
        return "is RSA" NOT_RSA;
    if (strncmp(type, "sk-", 3) == 0)
        return "is a hardware key: use --via openssh";
    return NULL;
}

/* The first bytes behind a line that begins a key: at most DECODED of them.  -1: damaged. */
static int decode(const char *at, unsigned char bytes[DECODED])
{
    unsigned char line[DECODED / 3 * 4];
    size_t len = 0;
    int n;

    for (; *at != '\0' && *at != '-' && len < sizeof(line); at++)
        if (*at != '\n' && *at != '\r')
            line[len++] = (unsigned char)*at;
    n = EVP_DecodeBlock(bytes, line, (int)(len - len % 4));
    explicit_bzero(line, sizeof(line));
    return n;
}

static const char *judge_pkcs8(const unsigned char *bytes, size_t len)
{
    static const char rsa[] = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"; /* rsaEncryption, RFC 8017 */

    return memmem(bytes, len, rsa, sizeof(rsa) - 1) != NULL ? "is RSA" NOT_RSA : NULL;
}

/* What is behind the line that begins a key, by `judge`; nothing of it stays in memory. */
static const char *judge_decoded(const char *at,
                                 const char *(*judge)(const unsigned char *bytes, size_t len))
{
    unsigned char bytes[DECODED];
    int n = decode(at, bytes);
    const char *why = n < 0 ? "is damaged" : judge(bytes, (size_t)n);

    explicit_bzero(bytes, sizeof(bytes));
    return why;
}

const char *ds_ssh_key_refuse(const char *text)
{
    static const char begin[] = "-----BEGIN OPENSSH PRIVATE KEY-----";
    static const char pkcs8[] = "-----BEGIN PRIVATE KEY-----";
    const char *at = strstr(text, begin);

    if (at != NULL)
        return judge_decoded(at + sizeof(begin) - 1, judge_openssh);
    if (strstr(text, "ENCRYPTED") != NULL)
        return "is encrypted: give it to an ssh-agent with ssh-add";
    if (strstr(text, "BEGIN RSA PRIVATE KEY") != NULL)
        return "is RSA" NOT_RSA;
    at = strstr(text, pkcs8);
    if (at != NULL)
        return judge_decoded(at + sizeof(pkcs8) - 1, judge_pkcs8);
    return strstr(text, "PRIVATE KEY-----") != NULL ? NULL : "is no private key";
}

/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * wire.c - the contract, and the frame byte by byte, is in wire.h.
 */
#include "base/wire.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/limits.h"

enum { MAGIC_BYTES = 8, NONCE_BYTES = 16 };
/* Offsets in HELLO's payload. */
enum {
    HELLO_VERSION = MAGIC_BYTES,
    HELLO_BUILD = HELLO_VERSION + 4,
    HELLO_NONCE = HELLO_BUILD + DS_WIRE_BUILD_BYTES,
    HELLO_BYTES = HELLO_NONCE + NONCE_BYTES,
};

static const char magic[MAGIC_BYTES] = {'D', 'S', 'R', 'U', 'N', '\r', '\n', '\032'};

static void put_u16(void *at, uint16_t value)
{
    uint8_t *to = at;

    to[0] = (uint8_t)value;
    to[1] = (uint8_t)(value >> 8);
}

static uint16_t get_u16(const void *at)
{
    const uint8_t *from = at;

    return (uint16_t)(from[0] | from[1] << 8);
}

void ds_put_u32(void *at, uint32_t value)
{
    uint8_t *to = at;

    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

void ds_put_u64(void *at, uint64_t value)
{
    uint8_t *to = at;

    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

uint32_t ds_get_u32(const void *at)
{
    const uint8_t *from = at;
    uint32_t value = 0;

    for (int i = 0; i < 4; i++)
        value |= (uint32_t)from[i] << 8 * i;
    return value;
}

uint64_t ds_get_u64(const void *at)
{
    const uint8_t *from = at;

    return ds_get_u32(from) | (uint64_t)ds_get_u32(from + 4) << 32;
}

const char *ds_wire_type_name(uint16_t type)
{
    switch (type) {
#define X(id, number, text)                                                                        \
    case (number): return #id;
        DS_WIRE_TYPES(X)
#undef X
    default: return NULL;
    }
}

int ds_wire_encode(struct ds_buf *out, const struct ds_frame *frame)
{
    uint8_t header[DS_WIRE_HEADER_BYTES];
    int rc;

    assert(ds_wire_type_name(frame->type) != NULL);
    if (frame->len > DS_MAX_FRAME_BYTES)
        return -EMSGSIZE;
    ds_put_u32(header, frame->len);
    put_u16(header + 4, frame->type);
    put_u16(header + 6, frame->flags);
    ds_put_u32(header + 8, frame->rank);
    /* Both or nothing: a header without its payload would break the stream. */
    if (ds_buf_reserve(out, sizeof(header) + frame->len) == NULL)
        return ds_buf_put(out, header, sizeof(header));
    rc = ds_buf_put(out, header, sizeof(header));
    return rc != 0 ? rc : ds_buf_put(out, frame->payload, frame->len);
}

int ds_wire_decode(const void *bytes, size_t len, struct ds_frame *frame, size_t *used,
                   struct ds_error *err)
{
    const uint8_t *at = bytes;
    uint32_t payload_len;

    if (len >= 4 && ds_get_u32(at) > DS_MAX_FRAME_BYTES)
        return ds_fail(err, EPROTO, "a frame of %u bytes was announced, the most is %u",
                       ds_get_u32(at), (unsigned)DS_MAX_FRAME_BYTES);
    if (len >= 6 && ds_wire_type_name(get_u16(at + 4)) == NULL)
        return ds_fail(err, EPROTO, "a frame of unknown type %u was received", get_u16(at + 4));
    if (len < DS_WIRE_HEADER_BYTES)
        return 0;
    payload_len = ds_get_u32(at);
    if (len - DS_WIRE_HEADER_BYTES < payload_len)
        return 0;
    *frame = (struct ds_frame){
        .type = get_u16(at + 4),
        .flags = get_u16(at + 6),
        .rank = ds_get_u32(at + 8),
        .payload = at + DS_WIRE_HEADER_BYTES,
        .len = payload_len,
    };
    *used = DS_WIRE_HEADER_BYTES + (size_t)payload_len;
    return 1;
}

/* A header that can stand before HELLO's magic. */
static bool is_hello_header(const uint8_t *at)
{
    uint32_t len = ds_get_u32(at);

    return len >= HELLO_BYTES && len <= DS_MAX_FRAME_BYTES && get_u16(at + 4) == DS_WIRE_HELLO;
}

long ds_wire_find_hello(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    size_t most = DS_MAX_BANNER_BYTES;

    for (size_t i = 0; i <= most; i++) {
        const uint8_t *hit;

        if (len < DS_WIRE_HEADER_BYTES + MAGIC_BYTES + i)
            return -EAGAIN;
        hit = memmem(at + i + DS_WIRE_HEADER_BYTES, len - i - DS_WIRE_HEADER_BYTES, magic,
                     MAGIC_BYTES);
        if (hit == NULL)
            return len - DS_WIRE_HEADER_BYTES - MAGIC_BYTES >= most ? -EPROTO : -EAGAIN;
        i = (size_t)(hit - at) - DS_WIRE_HEADER_BYTES;
        if (i <= most && is_hello_header(at + i))
            return (long)i;
    }
    return -EPROTO;
}

int ds_wire_put_hello(struct ds_buf *out, const struct ds_hello *hello)
{
    uint8_t payload[HELLO_BYTES] = {0};

    memcpy(payload, magic, MAGIC_BYTES);
    ds_put_u32(payload + HELLO_VERSION, hello->version);
    memcpy(payload + HELLO_BUILD, hello->build_id, strnlen(hello->build_id, DS_WIRE_BUILD_BYTES));
    memcpy(payload + HELLO_NONCE, hello->nonce, NONCE_BYTES);
    return ds_wire_encode(out, &(struct ds_frame){
                                   .type = DS_WIRE_HELLO,
                                   .rank = DS_WIRE_NO_RANK,
                                   .payload = payload,
                                   .len = sizeof(payload),
                               });
}

/* Printable ASCII, then zeros: it will stand in messages. */
static bool is_build_id(const uint8_t *at)
{
    size_t i = 0;

    while (i < DS_WIRE_BUILD_BYTES && at[i] > 0x20 && at[i] < 0x7f)
        i++;
    while (i < DS_WIRE_BUILD_BYTES && at[i] == 0)
        i++;
    return i == DS_WIRE_BUILD_BYTES;
}

int ds_wire_get_hello(const struct ds_frame *frame, struct ds_hello *hello, struct ds_error *err)
{
    const uint8_t *at = frame->payload;

    if (frame->type != DS_WIRE_HELLO)
        return ds_fail(err, EPROTO, "frame %u came before HELLO", frame->type);
    /* Another version may say more; it must be readable enough to be named. */
    if (frame->len < HELLO_BYTES || memcmp(at, magic, MAGIC_BYTES) != 0)
        return ds_fail(err, EPROTO, "HELLO is not from a dsrun program");
    if (ds_get_u32(at + HELLO_VERSION) == DS_WIRE_VERSION && frame->len != HELLO_BYTES)
        return ds_fail(err, EPROTO, "HELLO has %u bytes, %u were expected", frame->len,
                       (unsigned)HELLO_BYTES);
    if (!is_build_id(at + HELLO_BUILD))
        return ds_fail(err, EPROTO, "HELLO carries a build id that is not text");
    *hello = (struct ds_hello){.version = ds_get_u32(at + HELLO_VERSION)};
    memcpy(hello->build_id, at + HELLO_BUILD, DS_WIRE_BUILD_BYTES);
    memcpy(hello->nonce, at + HELLO_NONCE, NONCE_BYTES);
    return 0;
}

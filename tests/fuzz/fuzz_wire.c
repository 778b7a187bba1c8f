/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_wire.c - any bytes from a peer: frames, banners, HELLO.
 *
 * Beyond "no crash": a decoded frame encodes to the bytes it came from, the start of a stream is
 * never judged worse than the whole of it, and a HELLO that is found is one.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/limits.h"
#include "base/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_hello(const struct ds_frame *frame)
{
    struct ds_buf again = {0};
    struct ds_error err = {0};
    struct ds_hello hello;

    if (ds_wire_get_hello(frame, &hello, &err) != 0) {
        assert(err.text[0] != '\0');
        return;
    }
    assert(strlen(hello.build_id) <= DS_WIRE_BUILD_BYTES);
    if (hello.version != DS_WIRE_VERSION)
        return;
    ds_buf_init(&again, DS_MAX_FRAME_BYTES);
    assert(ds_wire_put_hello(&again, &hello) == 0);
    assert(again.len == DS_WIRE_HEADER_BYTES + (size_t)frame->len);
    assert(memcmp(again.data + DS_WIRE_HEADER_BYTES, frame->payload, frame->len) == 0);
    ds_buf_release(&again);
}

static void check_frame(const uint8_t *at, const struct ds_frame *frame, size_t used)
{
    struct ds_buf again;

    assert(ds_wire_type_name(frame->type) != NULL);
    assert(used == DS_WIRE_HEADER_BYTES + (size_t)frame->len);
    ds_buf_init(&again, used);
    assert(ds_wire_encode(&again, frame) == 0);
    assert(again.len == used && memcmp(again.data, at, used) == 0);
    ds_buf_release(&again);
    if (frame->type == DS_WIRE_HELLO)
        check_hello(frame);
}

/* Frame after frame; returns what ended it. */
static int decode_all(const uint8_t *data, size_t size)
{
    struct ds_error err = {0};
    struct ds_frame frame;
    size_t used;
    int rc;

    while ((rc = ds_wire_decode(data, size, &frame, &used, &err)) == 1) {
        assert(used <= size);
        check_frame(data, &frame, used);
        data += used;
        size -= used;
    }
    assert(rc == 0 || err.text[0] != '\0');
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int rc = decode_all(data, size);
    long hello = ds_wire_find_hello(data, size);

    if (size > 0 && decode_all(data, size / 2) != 0)
        assert(rc != 0);
    if (hello >= 0) {
        assert((size_t)hello + DS_WIRE_HEADER_BYTES + 8 <= size);
        assert(hello <= DS_MAX_BANNER_BYTES);
        assert(memcmp(data + hello + DS_WIRE_HEADER_BYTES, "DSRUN\r\n\032", 8) == 0);
        (void)decode_all(data + hello, size - (size_t)hello);
    }
    return 0;
}

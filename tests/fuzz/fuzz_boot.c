/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_boot.c - any bytes as what a host prints before its agent runs.
 *
 * The first byte says in which pieces they come, the second whether programs may be pushed, whether the
 * host is held, and whether what is said to it is sent before or after it speaks.  Beyond "no crash": an agent runs only when the host has said so with this
 * connection's own number, and what is kept of the input is bounded.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "launcher/remote/boot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char number[] = "0123456789abcdef0123456789abcdef";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char program[] = "the bytes of a program";
    struct ds_boot_plan plan = {.folder = "/opt/dsrun", .build = "1", .hash = {"-", "-"}};
    struct ds_error err = {0};
    struct ds_boot boot;
    size_t piece, at = 0, used = 0;
    bool early;
    int rc = 0;

    if (size < 2)
        return 0;
    piece = data[0] == 0 ? size : data[0];
    early = (data[1] & 4) != 0;
    for (size_t i = 0; (data[1] & 1) != 0 && i < DS_BOOT_PROGRAMS; i++) {
        plan.program[i] = (struct ds_map){.data = program, .len = sizeof(program), .fd = -1};
        (void)snprintf(plan.hash[i], sizeof(plan.hash[i]), "%064d", 0);
    }
    assert(ds_boot_init(&boot, &plan, (data[1] & 2) != 0, &err) == 0);
    (void)snprintf(boot.nonce, sizeof(boot.nonce), "%s", number);
    data += 2;
    size -= 2;
    while (rc == 0 && at < size) {
        size_t n = size - at < piece ? size - at : piece;

        if (early)
            ds_boot_sent(&boot, boot.out_bytes);
        rc = ds_boot_feed(&boot, data + at, n, &used, &err);
        assert(rc == 1 || rc == 0 || rc == -EHOSTUNREACH || rc == -EPROTO);
        assert(rc >= 0 || err.text[0] != '\0');
        assert(boot.line_bytes <= sizeof(boot.line) && boot.noise <= DS_MAX_BANNER_BYTES + n);
        if (rc == 0 && boot.held && boot.here)
            ds_boot_go(&boot);
        ds_boot_sent(&boot, boot.out_bytes);
        at += rc == 1 ? used : n;
    }
    if (rc == 1)
        assert(used <= piece && memmem(data, at, number, strlen(number)) != NULL);
    ds_boot_release(&boot);
    return 0;
}

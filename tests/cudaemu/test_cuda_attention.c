/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Attention of kernels/cuda/ by the tests of the CPU's.
 */
#include "tests/cudaemu/emulated.h"

#include "tests/kernels/test_attention.c"

/* More than the kernels have places for is refused, forward and backward. */
Test(attention, too_wide_a_head_is_refused)
{
    struct attention x = {.batch = 1, .seq = 1, .heads = 1, .kv_heads = 1, .size = 513};
    struct ds_device *device = open_cpu(NULL, 1, 0);
    float *buffer = calloc(4 * 513, sizeof(float));
    void *out[2] = {buffer, buffer};
    struct ds_error err = {0};

    x.qkv.data = x.out.data = x.dout.data = x.lse.data = (char *)(buffer + 1);
    cr_assert(run_fwd(&x, out, ds_device_stream(device), &err) == -ENOTSUP);
    cr_assert(strstr(err.text, "heads of 513 elements") != NULL, "%s", err.text);
    cr_assert(run_bwd(&x, out, ds_device_stream(device), &err) == -ENOTSUP);
    ds_device_close(device);
    free(buffer);
}
